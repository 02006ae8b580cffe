"""Configuration is frozen, comes from recipe, file and --set in that order, and refuses an unknown key by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError, field_validator

from semgen_platform.config import Config, flatten, load_config
from semgen_platform.errors import ConfigError


class Crop(Config):
    shape_zyx: tuple[int, int, int] = (32, 64, 64)

    @field_validator("shape_zyx")
    @classmethod
    def _divisible(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(n % 8 for n in shape):
            raise ValueError("give three multiples of 8")
        return shape


class Train(Config):
    seed: int = 0
    learning_rate: float = 1.0
    crop: Crop = Crop()


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 5\ncrop:\n  shape_zyx: [16, 32, 32]\n")
    return str(path)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Train(), "seed", 1)  # noqa: B010  # mypy refuses the plain assignment, as it should


def test_every_value_has_an_origin(recipe: str) -> None:
    config, origins = load_config(Train, recipe=recipe, settings=["seed=7"])
    assert config == Train(seed=7, crop=Crop(shape_zyx=(16, 32, 32)))
    assert origins == {"seed": "--set", "learning_rate": "default", "crop.shape_zyx": recipe}


def test_a_setting_reaches_a_nested_key_and_leaves_its_neighbours(recipe: str) -> None:
    config, _ = load_config(Train, recipe=recipe, settings=["crop.shape_zyx=[8, 8, 8]"])
    assert config.crop.shape_zyx == (8, 8, 8)
    assert config.seed == 5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["sede=1"], "unknown configuration key sede; did you mean seed?"),
        (["crop.shape=1"], "unknown configuration key crop.shape; did you mean crop.shape_zyx?"),
        (["seed"], "--set seed is not key=value; write e.g. --set seed=3"),
        (["seed=many"], "configuration key seed is 'many'"),
        (["crop.shape_zyx=[1, 2, 3]"], "configuration key crop.shape_zyx is [1, 2, 3]: give three multiples of 8"),
        (["crop=[1"], "--set crop=[1 is no YAML"),
        (["crop=3"], "configuration key crop is 3"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Train, settings=settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"no recipe nothing\.yaml for pretrain"):
        load_config(Train, stage="pretrain", recipe="nothing.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"), [("a: [", "is no YAML"), ("- 1", "is not a mapping"), ("seed: [1]", "seed")]
)
def test_a_broken_recipe_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(Train, recipe=str(tmp_path / "broken.yaml"))


def test_flatten_gives_every_leaf_its_dotted_key() -> None:
    assert dict(flatten({"a": 1, "b": {"c": {"d": 2}, "e": []}})) == {"a": 1, "b.c.d": 2, "b.e": []}
