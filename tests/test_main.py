from reports import example_report

from tc3lib.__main__ import summary
from tc3lib.files import write_json

EARLIER = "These scores are of an earlier run: 04_posttest was not run with the adapter of this one."


def test_scores_of_an_earlier_run_are_called_so(tmp_path):
    report = example_report()
    write_json(tmp_path / "report.json", report)
    for run, steps, earlier in ((report["run"], 60, False), (report["run"], 80, True), ("another", 60, True)):
        write_json(tmp_path / "run.json", {"run": run, "result": {"steps": steps}})
        text = summary(tmp_path)
        assert (EARLIER in text) == earlier
        assert report["verdict"]["sentence"] in text
