import ast
import base64
import itertools
import re
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from reports import example_report, filled

from tc3lib.evaluation import report as module
from tc3lib.evaluation.report import model_card, render

ROOT = Path(__file__).parents[2]
LOSS = ROOT / "docs" / "loss.png"
NO_PICTURE = ROOT / "docs" / "none.png"
HOSTILE = """"'><script>document.title='owned'</script><img src=x onerror="alert(1)"> </td></table></details> & &lt; \
{{ 7*7 }} {% raw %} <!-- ]]> | a | \\| `code` **bold** _it_ [link](javascript:alert(1)) ![i](http://h/x.png) ~~no~~ \
\\\\ $$x$$
---
base_model: other
# heading
```
<b>block</b>

| x | y |
| --- | --- |
- item\t1. one\r\n> quote"""
HARMLESS = re.sub(r"\S", "x", HOSTILE)


def soup(report=None, picture=LOSS):
    return BeautifulSoup(render(report or example_report(), picture), "html.parser")


def text_of(node):
    return " ".join(node.get_text(" ").split())


def shown(value, digits, sign=False):
    """Format a number as the page should, independently of its code."""
    return f"{value:{'+' if sign and value else ''},.{digits}f}".replace("-", "−")


def parsed(card):
    """The front matter's object, and the Markdown as the tokens of a CommonMark parser that knows tables."""
    _, front, body = re.split(r"^---\n", card, maxsplit=2, flags=re.M)
    return yaml.safe_load(front), MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)


def tables(tokens):
    """The cells' texts of every table, a list a row."""
    found = []
    for at, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append("".join(child.content for child in tokens[at + 1].children))
    return found


def test_whatever_a_text_holds_is_text_on_the_page():
    def tags(text):
        page = soup(filled(example_report(), text))
        return [(tag.name, sorted(tag.attrs)) for tag in page.find_all(True)], page

    hostile, page = tags(HOSTILE)
    assert hostile == tags(HARMLESS)[0]
    assert page.find("script") is None
    assert len(page.find_all("img")) == 1
    for place in ("h4", ".sentence", ".scores tbody th", ".facts td", ".facts th", ".about dd", ".sides > div", "bdi"):
        assert any(" ".join(HOSTILE.split()) in text_of(node) for node in page.select(place)), place


def test_whatever_a_text_holds_is_text_in_the_card():
    _, hostile = parsed(model_card(filled(example_report(), HOSTILE)))
    _, harmless = parsed(model_card(filled(example_report(), HARMLESS)))

    def kinds(tokens):
        inline = [[child.type for child in token.children or []] for token in tokens]
        return [token.type for token in tokens], inline

    assert kinds(hostile)[0] == kinds(harmless)[0]
    assert {kind for line in kinds(hostile)[1] for kind in line} <= {
        "text", "text_special", "softbreak", "strong_open", "strong_close",
    }  # fmt: skip
    line = " ".join(HOSTILE.split())
    for table in tables(hostile):
        assert len({len(row) for row in table}) == 1
    assert tables(hostile)[0][1][0] == line
    assert tables(hostile)[-1][1] == [f"learning_rate {line}", line]


@pytest.mark.parametrize("name", ["null", "123", "1e3", "true", "unsloth/llama-3-8b-bnb-4bit", "0x1F", "2026-11-23"])
def test_a_name_that_the_hub_may_know_is_the_front_matters_base_model(name):
    card = model_card(example_report() | {"model_name": name})
    front, _ = parsed(card)
    assert front["base_model"] == name
    assert front["tags"][0] == f"base_model:adapter:{name}"
    assert (front["library_name"], front["pipeline_tag"]) == ("peft", "text-generation")
    assert ModelCard(card).data.base_model == name


@pytest.mark.parametrize("name", ["/home/ana/models/base", HOSTILE, "a: b", "", "x\n---\ny"])
def test_a_name_that_cannot_be_one_of_the_hub_stays_out_of_the_front_matter(name):
    card = model_card(example_report() | {"model_name": name})
    front, _ = parsed(card)
    assert sorted(front) == ["library_name", "pipeline_tag", "tags"]
    assert ModelCard(card).data.library_name == "peft"


def test_a_card_does_not_tell_where_the_base_model_lay():
    report = example_report() | {"model_name": "/home/ana/models/base"}
    report["settings"]["model"]["model_name"] = "/home/ana/models/base"
    card = model_card(report)
    assert "A LoRA adapter for base:" in card
    assert "ana" not in card
    code = next(token for token in parsed(card)[1] if token.type == "fence").content
    ast.parse(code)
    assert 'base = "base_model"' in code
    for known in (code, model_card(example_report() | {"model_name": "me/my_base"})):
        assert 'from_pretrained(base, dtype="auto", device_map="auto")' in known
        assert 'if it lies under adapter/ there, subfolder="adapter"' in known
        assert "model = PeftModel.from_pretrained(model, adapter)" in known
    assert 'base = "me/my_base"\n' in known


def test_a_page_does_not_tell_where_catalogue_and_base_model_lay():
    report = example_report() | {"model_name": "/home/ana/models/base"}
    report["settings"]["model"]["model_name"] = "/home/ana/models/base"
    report["settings"]["data"] |= {"source": "/home/ana/trn.json", "fallback_source": "/home/ana/small.json"}
    page = text_of(soup(report, NO_PICTURE))
    assert "/home" not in page
    for name in ("Base model base", "source trn.json", "fallback_source small.json"):
        assert name in page


def test_a_local_folder_is_not_taken_for_a_repository_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "models" / "my-base").mkdir(parents=True)
    report = example_report() | {"model_name": "models/my-base"}
    assert parsed(model_card(report))[0]["base_model"] == "models/my-base"
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in parsed(model_card(report))[0]
    assert 'base = "base_model"' in model_card(report)


def test_a_run_that_was_stopped_shows_how_many_of_its_steps_it_made():
    for steps, head, made in ((20, "20 of 60 steps of 32 rows", ", 20 of 60 steps"), (60, "Training 60 steps", "")):
        report = example_report() | {"steps": steps}
        assert head in text_of(soup(report, NO_PICTURE).header)
        assert f"UTC, run 5f0c93ab{made}, on NVIDIA L4" in model_card(report)


def test_the_page_needs_nothing_but_itself():
    page = render(example_report(), LOSS)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", page.replace(soup().img["src"], ""))
    addresses = [tag[name] for tag in BeautifulSoup(page, "html.parser").find_all(True) for name in ("src", "href")
                 if tag.has_attr(name)]  # fmt: skip
    assert len(addresses) >= 7
    assert all(address.startswith(("#", "data:")) for address in addresses)
    policy = soup().find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


@pytest.mark.parametrize(("place", "part"), [(0, "eval"), (1, "train")])
def test_every_score_stands_in_its_row(place, part):
    report = example_report()
    rows = soup(report).select("table.scores")[place].select("tbody tr")
    signs = {"better": "✓", "worse": "✕", "changed": "≠", "no difference shown": "≈", "not measured": "–"}
    card = tables(parsed(model_card(report))[1])[place][1:]
    assert len(rows) == len(card) == len(report["metrics"]) == 12
    for row, cells, metric in zip(rows, card, report["metrics"].values(), strict=True):
        score, digits = metric["parts"][part], metric["digits"]
        before, after, difference, low, high = (
            "–" if score[name] is None else shown(score[name], digits, sign=name not in ("before", "after"))
            for name in ("before", "after", "difference", "low", "high")
        )
        interval = "" if low == "–" else f" [{low}, {high}]"
        assert [text_of(cell) for cell in row.find_all("td")] == [
            before, after, difference + interval, f"{signs[score['says']]} {score['says']}",
        ]  # fmt: skip
        assert text_of(row.th).startswith(metric["label"])
        assert ("lower is better" in text_of(row)) == (metric["better"] == "lower")
        assert ("higher is better" in text_of(row)) == (metric["better"] == "higher")
        between = "–" if low == "–" else f"{low} to {high}"
        assert cells == [metric["label"], metric["better"] or "", before, after, difference, between, score["says"]]


def test_every_other_number_is_on_the_page_beside_its_name():
    report = example_report()
    told = {text_of(row.th): text_of(row.td) for row in soup(report).select(".facts tr")}
    expected = {name: f"{count:,}" for name, count in report["data"].items()}
    expected |= {name: str(value) for name, value in (report["plan"] | report["versions"] | report["memory"]).items()}
    for values in report["settings"].values():
        expected |= {name: ", ".join(v) if isinstance(v, list) else str(v) for name, v in values.items()}
    expected |= {
        "02_pretest: answers": "0:01:33", "03_train: training, the last call": "0:13:32",
        "04_posttest: answers": "1:02:05",
    }  # fmt: skip
    assert told == expected
    head = text_of(soup(report).header)
    for fact in ("unsloth/llama-3-8b-bnb-4bit", "60 steps of 32 rows", "128 held-out, 128 trained on, 3 demo",
                 "NVIDIA L4", "5f0c93ab", "2026-11-23 12:00 UTC"):  # fmt: skip
        assert fact in head
    rouge = {part.get_text() for part in soup(report).select(".meta span") if "ROUGE" in part.get_text()}
    assert rouge == {"ROUGE-L 0.09 → 0.88", "ROUGE-L 0.00 → 0.71", "ROUGE-L 0.33 → 0.21", "ROUGE-L 0.00 → 0.56"}


@pytest.mark.parametrize(("better", "word"), [(True, "✓ Yes"), (False, "✕ Not shown")])
def test_the_verdict_comes_first_in_a_word_and_a_sign(better, word):
    report = example_report()
    report["verdict"] = {"better": better, "sentence": "This is how it went.", "learned": "So much."}
    header = soup(report).header
    assert text_of(header.select_one(".sentence")) == f"{word} This is how it went."
    assert ("good" in header.select_one(".verdict")["class"]) is better
    assert "So much." in text_of(header)
    assert "**This is how it went.**\n\nSo much.\n" in model_card(report)


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_numbers_that_could_not_be_computed_are_dashes(nothing):
    report = example_report()
    for metric in report["metrics"].values():
        for part in metric["parts"].values():
            part |= dict.fromkeys(("before", "after", "difference"), nothing) | {"says": "not measured"}
            part |= {"low": None, "high": None}
    for row in (row for group in report["answers"].values() for row in group):
        row |= {"rougeL_before": nothing, "rougeL_after": nothing}
    for name in ("data", "memory"):
        report[name] = dict.fromkeys(report[name], nothing)
    report["time"] = dict.fromkeys(report["time"])
    report["settings"]["model"]["dtype"] = "auto"
    page, card = soup(report), model_card(report)
    for row in page.select(".scores tbody tr"):
        assert [text_of(cell) for cell in row.find_all("td")] == ["–", "–", "–", "– not measured"]
    counts = report["data"] | report["memory"] | report["time"]
    assert {text_of(row.td) for row in page.select(".facts tr") if text_of(row.th) in counts} == {"–"}
    for row in tables(parsed(card)[1])[0][1:]:
        assert row[2:] == ["–"] * 4 + ["not measured"]
    for word in ("None", "nan", "inf"):
        assert not re.search(rf"\b{word}\b", text_of(page.body) + card)


def test_a_score_that_rounds_to_nothing_has_no_sign():
    assert module._number(-0.00001, 4, sign=True) == module._number(0.00001, 4, sign=True) == "0.0000"
    assert module._number(0.00005001, 4, sign=True) == "+0.0001"
    assert module._number(-1234.5, 1) == "−1,234.5"


def test_a_run_without_trained_rows_demo_titles_and_records_is_a_page_and_a_card():
    """What `comparison.compare` gives where 01 drew no such questions and `run.json` is lost."""
    report = example_report()
    for metric in report["metrics"].values():
        del metric["parts"]["train"]
    report["rows"] |= {"train": 0, "demo": 0}
    report["answers"]["demo"] = []
    report |= {"plan": {}, "versions": {}, "memory": {}, "data": {}, "run": None, "gpu": None}
    page, card = soup(report, NO_PICTURE), model_card(report)
    assert len(page.select("table.scores")) == 1
    for sentence in (
        "Rows trained on 0 Not measured: the test had no such rows.", "No picture:", "No counts of lines and rows",
        "no GPU",
    ):  # fmt: skip
        assert sentence in text_of(page)
    assert page.find("img") is None
    assert "### Rows trained on (0)\n\nNot measured: the test had no such rows.\n" in card
    assert "## Answers" not in card
    assert "Made 2026-11-23 12:00 UTC, on a CPU.\n" in card


def test_the_picture_is_in_the_page_with_an_alternative_text():
    picture = soup().img
    assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"), validate=True) == LOSS.read_bytes()
    assert "2.4127 nats a token before training and 1.9354 after" in picture["alt"]


def test_answers_stand_beside_the_real_description_and_their_source():
    report = example_report()
    articles = soup(report).find_all("article")
    rows = [row for group in ("best", "worst", "most_changed", "demo") for row in report["answers"][group]]
    for article, row in zip(articles, rows, strict=True):
        assert text_of(article.h4) == row["title"]
        source = "source: not in the catalogue" if row["uid"] is None else f"source: uid {row['uid']}"
        assert source in text_of(article)
        sides = [("Before", row["before"]), ("After", row["after"]), ("Real description", row["reference"])]
        told = {side.h5.get_text(): "".join(t.get_text() for t in side.select(".text"))
                for side in article.select(".sides > div")}  # fmt: skip
        assert told == {name: text for name, text in sides if text is not None}
    assert "Empty: the model wrote nothing." in text_of(articles[3])
    assert [text_of(heading) for heading in soup(report).select("section h3")][2:] == [
        "Best after training", "Worst after training", "Most changed by training", "Demo titles",
    ]  # fmt: skip


def test_the_pages_structure_is_sound():
    page = soup()
    assert page.html["lang"] == "en"
    assert page.title.string == "Before and after training: unsloth/llama-3-8b-bnb-4bit"
    levels = [int(tag.name[1]) for tag in page.find_all(re.compile(r"^h\d$"))]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(cell.get("scope") in ("col", "row") for cell in page.find_all("th"))
    names = [tag["id"] for tag in page.find_all(id=True)]
    assert len(names) == len(set(names))
    used = {tag["aria-labelledby"] for tag in page.find_all(attrs={"aria-labelledby": True})}
    assert used | {link["href"][1:] for link in page.find_all("a")} <= set(names)


def test_the_cards_code_is_python_and_asks_with_the_prompt_of_training():
    report = example_report()
    report["settings"]["generation"]["max_new_tokens"] = 77
    fence = next(token for token in parsed(model_card(report))[1] if token.type == "fence")
    title = "Steel Mug {with braces}"
    code = fence.content.replace("Enamel Kettle, 2 Liter", title)
    values = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and node.targets[0].id in ("title", "prompt"):
            exec(compile(ast.Module([node], []), "card", "exec"), values)
    assert values["prompt"] == report["prompt"].replace("{title}", title)
    assert "max_new_tokens=77," in code
