"""config.pbtxt, generated and read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_type_hints

import dagster as dg
import pytest
from annotated_types import Ge, Le
from pydantic import BaseModel

from platform_assets.export.assets import export_assets
from platform_assets.export.triton_config import (
    ConfigError,
    ServingOptions,
    TensorSpec,
    from_text,
    instances_on_gpu,
    load_override,
    model_config,
    served_versions,
    to_text,
    with_versions,
)
from platform_assets.model_spec import MAX_INSTANCES
from platform_assets.serving.assets import serving_assets
from serving_gateway.contract import MAX_BATCH_SIZE, DType
from tests.support.models import IRIS

INPUTS = (TensorSpec("features", DType.FP32, (None, 4)),)
OUTPUTS = (
    TensorSpec("label", DType.INT64, (None,)),
    TensorSpec("probabilities", DType.FP32, (None, 3)),
)


def config(options: ServingOptions | None = None, versions: tuple[int, ...] = (7,)) -> str:
    return to_text(
        model_config("best_model", INPUTS, OUTPUTS, versions, options or ServingOptions())
    )


def test_the_tensors_are_those_of_the_graph() -> None:
    parsed = from_text(config())
    assert [(t.name, t.data_type, list(t.dims)) for t in parsed.input] == [("features", 11, [4])]
    assert [(t.name, t.data_type, list(t.dims)) for t in parsed.output] == [
        ("label", 9, [1]),
        ("probabilities", 11, [3]),
    ]


def test_an_output_of_one_value_per_row_is_reshaped_to_no_dimension() -> None:
    label = from_text(config()).output[0]
    assert label.HasField("reshape")
    assert list(label.reshape.shape) == []


def test_batching_is_off_and_one_cpu_instance_by_default() -> None:
    parsed = from_text(config())
    assert not parsed.HasField("dynamic_batching")
    assert [(group.count, group.kind) for group in parsed.instance_group] == [(1, 2)]
    assert parsed.max_batch_size == MAX_BATCH_SIZE


def test_launch_options_reach_the_configuration() -> None:
    parsed = from_text(config(ServingOptions(dynamic_batching=True, instance_count=3)))
    assert parsed.HasField("dynamic_batching")
    assert parsed.instance_group[0].count == 3


@pytest.mark.parametrize("most", [1, 4, 12, MAX_BATCH_SIZE])
def test_no_batch_size_is_preferred_that_may_exceed_the_maximum(most: int) -> None:
    parsed = from_text(config(ServingOptions(dynamic_batching=True, max_batch_size=most)))
    # Triton refuses such a version when it is to be loaded, after the training.
    assert parsed.HasField("dynamic_batching")
    assert [*parsed.dynamic_batching.preferred_batch_size] == []


def test_configuration_that_would_serve_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="the instance count is 0; it must be at least 1"):
        config(ServingOptions(instance_count=0))
    with pytest.raises(ConfigError, match="serves at least one version"):
        with_versions(from_text(config()), [])


def test_launch_options_have_the_bounds_of_the_model_file() -> None:
    def bounds(model: type[BaseModel], field: str) -> list[object]:
        return model.model_fields[field].metadata

    entry = launch_config(export_assets(IRIS), "triton_model_entry")
    assert bounds(entry, "triton_instance_group_count") == [Ge(1), Le(MAX_INSTANCES)]
    switch = launch_config(serving_assets(IRIS), "gateway_reload")
    assert bounds(switch, "retention") == [Ge(1), Le(IRIS.serving.keep_versions)]


def launch_config(assets: Sequence[dg.AssetsDefinition], name: str) -> type[BaseModel]:
    asset = next(one for one in assets if one.key.path[-1] == name)
    config = get_type_hints(cast(Any, asset.op).compute_fn.decorated_fn)["config"]
    return cast(type[BaseModel], config)


@pytest.mark.parametrize(("kind", "expected"), [("gpu", 1), ("cpu", 2), ("", 2)])
def test_instances_are_where_the_environment_has_triton(kind: str, expected: int) -> None:
    on_gpu = instances_on_gpu({"TRITON_INSTANCE_KIND": kind})
    parsed = from_text(config(ServingOptions(on_gpu=on_gpu)))
    assert [group.kind for group in parsed.instance_group] == [expected]


def test_another_kind_of_instance_is_refused() -> None:
    with pytest.raises(ConfigError, match="TRITON_INSTANCE_KIND='tpu': give cpu or gpu"):
        instances_on_gpu({"TRITON_INSTANCE_KIND": "tpu"})


def test_exactly_the_named_versions_are_served() -> None:
    parsed = from_text(config(versions=(9, 7, 9)))
    assert served_versions(parsed) == (7, 9)


def test_other_versions_change_nothing_else() -> None:
    parsed = from_text(config())
    moved = with_versions(parsed, [7, 8])
    assert served_versions(moved) == (7, 8)
    assert with_versions(moved, [7]) == parsed


def test_the_override_is_the_same_configuration_as_json() -> None:
    override = load_override(from_text(config()))
    assert override["backend"] == "onnxruntime"
    assert override["version_policy"] == {"specific": {"versions": ["7"]}}


def test_a_graph_with_a_fixed_batch_is_refused_by_name() -> None:
    fixed = (TensorSpec("features", DType.FP32, (1, 4)),)
    with pytest.raises(ConfigError, match=r"features.*batch dimension"):
        model_config("best_model", fixed, OUTPUTS, [1], ServingOptions())


@pytest.mark.parametrize("versions", [[], [0]])
def test_a_policy_without_a_real_version_is_refused(versions: list[int]) -> None:
    with pytest.raises(ConfigError, match="at least one version"):
        model_config("best_model", INPUTS, OUTPUTS, versions, ServingOptions())


def test_text_that_is_not_a_configuration_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match="2:1"):
        from_text('name: "m"\nno_such_field: 1\n')
