"""Many model files at once: isolation, names, placeholders, and Dagster's own way of loading."""

from __future__ import annotations

import json
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing import create_defs_folder_sandbox

from platform_assets.components import FeatureTable, TabularModel, loading
from platform_assets.components.__main__ import main
from platform_assets.components.component import Attributes
from platform_assets.components.defining import define_models
from platform_assets.components.document import Document, read_document
from platform_assets.components.loading import (
    SHIPPED,
    explain_missing_model,
    model_folders,
    read_models,
)
from platform_assets.components.model_file import parse_model, read_model
from platform_assets.components.schema import file_schema
from platform_assets.components.tables import Tables
from platform_assets.model_spec import FeatureTableSpec, ModelSpec, Source
from platform_assets.shared_definitions import monitoring_definitions, resources
from platform_assets.training import own_code
from tests.support.model_files import FULL, MINIMAL, TYPE, write
from tests.support.reference import MODEL_FILE_REFERENCE, model_file_page

# Dagster's own reading of YAML calls what pydantic calls deprecated and Dagster calls beta.
by_dagster = pytest.mark.filterwarnings(
    "ignore:.parse_obj_as. is deprecated",
    "ignore:Class .LocalFileCodeReference. is currently",
    "ignore:Class .CodeReferencesMetadataValue. is currently",
)
ATTRIBUTES: dict[str, Any] = {
    "source": {"dataset": "vega.cars"},
    "join_key": {"row_number": "car"},
    "features": {"Horsepower": {"nullable": True}, "Origin": "text"},
    "target": {"column": "Miles_per_Gallon"},
    "task": "regression",
    "gates": {"metric_floor": 0.1},
}


def build(spec: ModelSpec | FeatureTableSpec) -> dg.Definitions:
    """Stands in for the slices: one asset."""
    return dg.Definitions(assets=[dg.AssetSpec([spec.name, "features"], group_name=spec.name)])


def assets(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def named(name: str) -> str:
    return MINIMAL.replace("attributes:\n", f"attributes:\n  model_name: {name}\n")


def test_broken_file_becomes_an_asset_that_says_why_and_the_others_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "c"):
        write(tmp_path, MINIMAL, name)
    file = write(tmp_path, MINIMAL.replace("0.6", "60"), "b-roken")

    with caplog.at_level(logging.ERROR):
        loaded = assets(define_models(read_models(tmp_path), build))

    assert set(loaded) == {"a/features", "c/features", "b-roken/model_file"}
    broken = loaded["b-roken/model_file"]
    assert broken.group_name == "b_roken"
    assert f"{file}:12: gates.metric_floor: 60" in (broken.description or "")
    assert broken.kinds == {"yaml", "broken"}
    assert broken.tags["serving/model_file"] == "broken"
    assert f"{file}:12: gates.metric_floor" in caplog.text


def test_a_model_that_is_not_there_is_explained_by_its_file_or_by_those_that_are(
    tmp_path: Path,
) -> None:
    for name in ("cars", "boats"):
        write(tmp_path, MINIMAL, name)
    file = write(tmp_path, named("planes").replace("0.6", "60"), "b_yaml")
    no_yaml = write(tmp_path, "{", "rubbish")
    models = read_models(tmp_path)

    assert explain_missing_model(models, "cars") is None
    for asked in ("b_yaml", "planes"):
        assert f"\n{file}:13: gates.metric_floor: 60" in (
            explain_missing_model(models, asked) or ""
        )
    assert f"\n{no_yaml}:2: file: is not YAML" in (explain_missing_model(models, "rubbish") or "")
    said = explain_missing_model(models, "car") or ""
    assert "Did you mean cars? There are boats, cars\n" in said
    assert f"broken: {file}" in said
    assert "There are none" in (
        explain_missing_model(read_models(tmp_path / "absent"), "cars") or ""
    )


def test_model_whose_definitions_cannot_be_built_is_broken_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        write(tmp_path, MINIMAL, name)

    def fails_for_a(spec: ModelSpec | FeatureTableSpec) -> dg.Definitions:
        if spec.name == "a":
            raise RuntimeError("no such slice")
        return build(spec)

    loaded = assets(define_models(read_models(tmp_path), fails_for_a))

    assert set(loaded) == {"a/model_file", "b/features"}
    assert "RuntimeError: no such slice" in (loaded["a/model_file"].description or "")
    assert "cannot be built" in caplog.text


def test_file_with_an_unforeseen_error_is_broken_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write(tmp_path, MINIMAL, name)

    def reads(document: Document, tables: Tables) -> ModelSpec:
        if document.path.parent.name == "a":
            raise LookupError("something new")
        return parse_model(document, tables)

    monkeypatch.setattr(loading, "parse_model", reads)

    loaded = assets(define_models(read_models(tmp_path), build))

    assert set(loaded) == {"a/model_file", "b/features"}
    assert "LookupError: something new" in (loaded["a/model_file"].description or "")


def test_model_may_be_called_as_a_part_of_the_platform(tmp_path: Path) -> None:
    for name in ("reconcile", "rollback", "serving"):
        write(tmp_path, MINIMAL, name)
    models = define_models(read_models(tmp_path))

    defs = dg.Definitions.merge(
        models, monitoring_definitions([*read_models(tmp_path).specs.values()]), resources()
    )

    assert "reconcile_reconcile" in defs.get_repository_def().job_names


def test_folder_that_has_the_name_keeps_it(tmp_path: Path) -> None:
    copy, owner = write(tmp_path, named("cars"), "a_copy"), write(tmp_path, named("cars"), "cars")

    models = read_models(tmp_path)

    assert list(models.specs) == [owner]
    (problem,) = models.problems
    assert (problem.file, problem.line, problem.field) == (copy, 3, "model_name")
    assert str(owner) in problem.message


def test_name_claimed_twice_is_refused_to_all(tmp_path: Path) -> None:
    first, second = write(tmp_path, named("cars"), "x"), write(tmp_path, named("Cars"), "y")
    write(tmp_path, MINIMAL, "fine")

    models = read_models(tmp_path)

    assert [spec.model_name for spec in models.specs.values()] == ["fine"]
    assert {problem.file for problem in models.problems} == {first, second}
    assert str(second) in next(p.message for p in models.problems if p.file == first)


def test_broken_folders_of_one_name_are_two_assets(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write(tmp_path / place, "nothing", "cars")

    loaded = assets(define_models(read_models([tmp_path / "one", tmp_path / "two"]), build))

    assert set(loaded) == {"cars/model_file", "cars (2)/model_file"}


def test_models_of_further_folders_load_beside_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one", MINIMAL, "mine")
    write(tmp_path / "two", MINIMAL, "yours")
    monkeypatch.setenv(
        "MODELS_DIR", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")])
    )

    names = [spec.model_name for spec in read_models().specs.values()]

    assert names == ["best_model", "cars", "fraud", "seattle_weather", "mine", "yours"]
    assert model_folders() == (SHIPPED, tmp_path / "one", tmp_path / "two")


def test_missing_folder_is_reported_and_the_rest_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "absent"))

    loaded = assets(define_models(read_models(), build))

    assert "best_model/features" in loaded
    assert "MODELS_DIR" in (loaded["absent/model_file"].description or "")


def test_folder_that_cannot_be_looked_into_takes_no_other_model_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "z"):
        write(tmp_path, MINIMAL, name)
    for name in ("closed", "lost+found"):
        (tmp_path / name).mkdir()
    exists = Path.exists

    def refused(path: Path) -> bool:
        if path.parent.name in {"closed", "lost+found"}:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)

    models = read_models(tmp_path)

    assert [spec.model_name for spec in models.specs.values()] == ["a", "z"]
    [problem] = models.problems
    assert (problem.file, problem.field) == (tmp_path / "closed", "folder")
    assert "Permission denied" in problem.message


def test_folder_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(SHIPPED)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "link"))

    assert read_models().problems == ()


def test_folder_of_one_model_is_read_as_well(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)

    assert list(read_models(file.parent).specs) == [file]


def test_each_of_many_model_files_is_read_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = [
        write(tmp_path, FULL.replace("name: stays", f"name: stays_{number}"), f"m{number}")
        for number in range(50)
    ]
    read: list[Path] = []

    def counted(path: Path) -> Document:
        read.append(path)
        return read_document(path)

    monkeypatch.setattr(loading, "read_document", counted)
    assert sorted(read_models(tmp_path).specs) == sorted(files)
    assert sorted(read) == sorted(files)


def test_component_of_python_code_builds_what_a_file_builds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = types.ModuleType("platform_assets.model_definitions")
    stub.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    component = TabularModel(
        Attributes.model_validate({"model_name": "by_code", **ATTRIBUTES}).root
    )

    definitions = dg.build_defs_for_component(component)

    assert set(assets(definitions)) == {"by_code/features"}
    file = write(tmp_path, TYPE + "attributes: " + json.dumps(ATTRIBUTES), "by_file")
    from_file, from_code = read_model(file), component.spec(tmp_path / "defs.py")
    assert from_code.features == from_file.features
    assert from_code.candidates == from_file.candidates


@by_dagster
def test_component_is_loaded_by_dagster_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[ModelSpec] = []
    stub = types.ModuleType("platform_assets.model_definitions")

    def builds(spec: ModelSpec) -> dg.Definitions:
        built.append(spec)
        return build(spec)

    stub.build = builds  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)

    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=TabularModel,
            defs_path="cars_of_mine",
            defs_yaml_contents={
                "type": "platform_assets.components.TabularModel",
                "attributes": ATTRIBUTES | {"source": {"file": "cars.csv"}},
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=folder) as (_, definitions):
            assert set(assets(definitions)) == {"cars_of_mine/features"}
        own = read_model(folder / "defs.yaml")

    assert own.source == Source(str(folder / "cars.csv"))
    assert built == [own]


@by_dagster
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gates": {"metric_floor": 5}}, "5 is not a value of r2"),
        ({"colour": "red"}, "colour"),
        ({"gates": {"metric_floor": "{{ 5 }}"}}, "valid number"),
    ],
)
def test_dagster_itself_refuses_what_the_loader_refuses(change: dict[str, Any], said: str) -> None:
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=TabularModel,
            defs_path="cars_of_mine",
            defs_yaml_contents={
                "type": "platform_assets.components.TabularModel",
                "attributes": ATTRIBUTES | change,
            },
        )
        assert read_models(folder).problems
        with (
            pytest.raises(ComponentTreeException) as caught,
            sandbox.load_component_and_build_defs(defs_path=folder),
        ):
            pass

    chain: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__
    assert said in "\n".join(chain)
    assert "defs.yaml" in "\n".join(chain)


def test_schema_for_editors_documents_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0

    schema = json.loads(capsys.readouterr().out)
    assert schema == json.loads(json.dumps(file_schema()))
    for group, content in schema["$defs"].items():
        if "enum" in content:
            continue
        assert content["additionalProperties"] is False, group
        for name, field in content["properties"].items():
            assert "$ref" in field or field.get("description"), f"{group}.{name}"


def test_the_reference_on_the_page_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert model_file_page() == MODEL_FILE_REFERENCE.read_text(), (
        "run python -m tests.support.reference"
    )
    assert main(["reference"]) == 0
    table = capsys.readouterr().out
    assert table in MODEL_FILE_REFERENCE.read_text()
    assert all(row.count(" | ") == 3 and not row.endswith("|  |") for row in table.splitlines()[2:])


def test_schema_accepts_the_shipped_files_and_refuses_bad_ones() -> None:
    import yaml
    from jsonschema_rs import validator_for

    validator = validator_for(file_schema())
    good = [yaml.safe_load(file.read_text()) for file in SHIPPED.glob("*/defs.yaml")]
    good += [yaml.safe_load(MINIMAL), yaml.safe_load(FULL)]

    assert len(good) == 8
    assert all(validator.is_valid(content) for content in good)
    of_dagster = {
        f"platform_assets.components.{kind.__name__}": validator_for(
            kind.model().model_json_schema()
        )
        for kind in (TabularModel, FeatureTable)
    }
    assert all(of_dagster[one["type"]].is_valid(one["attributes"]) for one in good)
    for there, instead in (
        ("0.6", "a"),
        ("task: binary", "task: x"),
        ("smoker: {", "smoker: {x: 1,"),
    ):
        assert not validator.is_valid(yaml.safe_load(MINIMAL.replace(there, instead))), instead


def test_candidates_are_found_in_modules_beside_the_model_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = [*sys.path]
    monkeypatch.setattr(sys, "path", [*before])
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    own = MINIMAL.replace("  task:", "  candidates: [{function: 'beside_models:build'}]\n  task:")
    write(tmp_path, own)

    assert "put it into a folder of MODELS_DIR" in read_models(tmp_path).problems[0].message
    (tmp_path / "beside_models.py").write_text("def build(): ...\n")

    assert read_models(tmp_path).problems == ()
    monkeypatch.setattr(sys, "path", before)  # as Dagster does after the definitions
    assert own_code.import_module("beside_models").build() is None
