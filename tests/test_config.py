import dataclasses

import pytest

from tc3lib import config as config_module
from tc3lib import presets
from tc3lib.config import Config
from tc3lib.errors import Tc3Error


def test_change_reaches_every_section_and_leaves_the_original_alone():
    old = presets.llama3_8b()
    new = old.change(max_steps=5, lora_alpha=32, eval_rows=7, load_in_4bit=False, demo_titles=("a",))
    assert (new.training.max_steps, new.lora.lora_alpha, new.data.eval_rows) == (5, 32, 7)
    assert (new.model.load_in_4bit, new.generation.demo_titles) == (False, ("a",))
    assert old == presets.llama3_8b()
    assert dataclasses.replace(new.training, max_steps=60) == old.training


def test_setting_names_are_unique_over_all_sections():
    sections = [field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)]
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names)) == len(config_module.setting_names())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_step": 5}, r"there is no setting 'max_step'\. Did you mean 'max_steps'\?"),
        ({"learnin_rate": 1e-3}, r"Did you mean 'learning_rate'\?"),
        ({"zzz": 1}, r"there is no setting 'zzz'\. There are: bias, "),
        ({"max_steps": "60"}, r"Expected `int`, got `str` - at `max_steps`"),
        ({"r": 0}, r"Expected `int` >= 1 - at `r`"),
        ({"eval_share": 1.0}, r"Expected `float` < 1.0 - at `eval_share`"),
        ({"max_steps": -5}, r"Expected `int` >= -1 - at `max_steps`"),
        ({"output_dir": "a/b"}, r"Expected `str` matching regex .* - at `output_dir`"),
        ({"output_dir": ".."}, r"at `output_dir`"),
        ({"bias": "some"}, r"Invalid enum value 'some' - at `bias`"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(settings, message):
    with pytest.raises(Tc3Error, match=message):
        presets.llama3_8b().change(**settings)
