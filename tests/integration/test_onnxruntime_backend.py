"""The embedded ONNX Runtime backend inside the real Triton, as a client sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from platform_assets.resources.triton import TritonEndpoint, TritonError, TritonRefused
from tests.support.onnx_models import (
    all_types,
    config_text,
    iris_classifier,
    look_up,
    scalar,
    string_echo,
    telltale,
    with_optional_input,
    write_config,
    write_entry,
    write_version,
)
from tests.support.servers import RunningTriton, loaded_config, run_triton

SILENCING = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
"""Variables that keep ONNX Runtime's telemetry out of HOME."""
BATCH = "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 2000000 }"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    home = tmp_path_factory.mktemp("backend")
    repository = home / "repository"
    write_entry(repository, "iris", {1: iris_classifier()})
    write_entry(repository, "types", {1: all_types()})
    write_entry(repository, "look_up", {1: look_up()})
    write_entry(repository, "look_up_merged", {1: look_up()}, max_batch_size=4, extra=BATCH)
    write_entry(repository, "echo", {1: string_echo()}, max_batch_size=4, extra=BATCH)
    write_version(repository, "bare", 1, telltale(1))
    write_config(repository, "bare", 'name: "bare"\nbackend: "onnxruntime"\n')
    write_version(repository, "scalar", 1, scalar())
    write_config(
        repository,
        "scalar",
        'name: "scalar"\nbackend: "onnxruntime"\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [1] }\n'
        'output { name: "doubled" data_type: TYPE_FP32 dims: [1] }\n',
    )
    write_version(repository, "optional", 1, with_optional_input())
    write_config(
        repository,
        "optional",
        'name: "optional"\nbackend: "onnxruntime"\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [-1, 2] }\n'
        'input { name: "scale" data_type: TYPE_FP32 dims: [1] optional: true }\n'
        'output { name: "scaled" data_type: TYPE_FP32 dims: [-1, 2] }\n',
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home / "user"))
        for name in SILENCING:
            patch.delenv(name, raising=False)
        with run_triton(repository, home, timeout_s=120) as running:
            yield running


@pytest.fixture(scope="module")
def triton(server: RunningTriton) -> TritonEndpoint:
    return TritonEndpoint(server.http_url, server.grpc_url, server.control_key, 10.0, 120.0)


def test_no_telemetry_is_collected(server: RunningTriton) -> None:
    assert not (server.state_dir / "user").exists()


def test_answers_are_those_of_onnx_runtime_itself(triton: TritonEndpoint) -> None:
    import onnxruntime as ort
    from sklearn.datasets import load_iris

    rows = load_iris().data.astype(np.float32)[::3]
    session = ort.InferenceSession(iris_classifier(), providers=["CPUExecutionProvider"])
    label, probabilities = session.run(["label", "probabilities"], {"features": rows})
    answer: dict[str, Any] = triton.infer("iris", 1, {"features": rows})
    np.testing.assert_array_equal(answer["label"].ravel(), label)
    assert np.allclose(answer["probabilities"], probabilities, rtol=1e-5, atol=1e-7)


SAMPLES: dict[str, Any] = {
    "FP16": np.array([[0.5, -2]], np.float16),
    "FP32": np.array([[np.nan, np.inf]], np.float32),
    "FP64": np.array([[1e300, -1e-300]], np.float64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 2**16 - 1]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "BOOL": np.array([[True, False]]),
    "STRING": np.array([["", "grün 木\x00"]], dtype=object),
}


def test_thirteen_inputs_of_all_types_come_back_bit_for_bit(triton: TritonEndpoint) -> None:
    given = {f"in_{name}": array for name, array in SAMPLES.items()}
    answer = triton.infer("types", 1, given)
    assert len(answer) == 13
    for name, array in SAMPLES.items():
        got = answer[f"out_{name}"]
        assert got.dtype == array.dtype
        assert got.tolist() == array.tolist() or got.tobytes() == array.tobytes(), name


def test_only_the_outputs_that_were_asked_for_come(triton: TritonEndpoint) -> None:
    index = {"index": np.array([[1], [2]])}
    assert list(triton.infer("look_up", 1, index, ["twice"])) == ["twice"]
    assert triton.infer("look_up", 1, index, ["twice"])["twice"].tolist() == [[22], [24]]


def test_an_error_of_the_run_is_the_answer_and_the_model_lives_on(triton: TritonEndpoint) -> None:
    with pytest.raises(TritonRefused, match=r"onnx runtime.*out of data bounds"):
        triton.infer("look_up", 1, {"index": np.array([[7]])})
    assert triton.infer("look_up", 1, {"index": np.array([[0]])})["value"].tolist() == [[10]]


def executions(server: RunningTriton, model: str) -> tuple[int, int]:
    """How often the backend was called, and how many requests that served or failed."""
    stats = httpx.get(f"{server.http_url}/v2/models/{model}/stats", trust_env=False).json()
    stats = stats["model_stats"][0]
    requests = (
        stats["inference_stats"]["success"]["count"] + stats["inference_stats"]["fail"]["count"]
    )
    return stats["execution_count"], requests


def at_once(
    triton: TritonEndpoint, model: str, requests: Sequence[tuple[dict[str, Any], list[str]]]
) -> list[Any]:
    """Send requests together; outputs or the error, in their order."""
    answers: list[Any] = [None] * len(requests)
    start = threading.Barrier(len(requests))

    def ask(place: int) -> None:
        inputs, outputs = requests[place]
        start.wait()
        try:
            answers[place] = triton.infer(model, 1, inputs, outputs)
        except TritonError as error:
            answers[place] = error

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_merged_requests_get_their_own_rows_and_outputs_back(
    server: RunningTriton, triton: TritonEndpoint
) -> None:
    before = executions(server, "look_up_merged")
    answers = at_once(
        triton,
        "look_up_merged",
        [
            ({"index": np.array([[0]])}, ["value"]),
            ({"index": np.array([[2], [1]])}, ["twice"]),
            ({"index": np.array([[1]])}, ["twice", "value"]),
        ],
    )
    assert {name: array.tolist() for name, array in answers[0].items()} == {"value": [[10]]}
    assert {name: array.tolist() for name, array in answers[1].items()} == {"twice": [[24], [22]]}
    assert {name: array.tolist() for name, array in answers[2].items()} == {
        "twice": [[22]],
        "value": [[11]],
    }
    after = executions(server, "look_up_merged")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 3), "they were not merged"


def test_one_bad_request_does_not_fail_the_others_in_its_batch(
    server: RunningTriton, triton: TritonEndpoint
) -> None:
    before = executions(server, "look_up_merged")
    requests = [({"index": np.array([[index]])}, ["value"]) for index in (0, 7, 2, 1)]
    answers = at_once(triton, "look_up_merged", requests)
    assert [answers[place]["value"].tolist() for place in (0, 2, 3)] == [[[10]], [[12]], [[11]]]
    assert isinstance(answers[1], TritonRefused)
    after = executions(server, "look_up_merged")
    assert after[0] - before[0] == 1, "they were not merged, so this shows nothing"


def test_text_that_is_not_utf_8_fails_its_own_request_only(triton: TritonEndpoint) -> None:
    words = [np.array([[word]], dtype=object) for word in (b"fine", b"\xff\xfe", b"good", b"well")]
    answers = at_once(triton, "echo", [({"text": word}, ["echo"]) for word in words])
    assert [answers[place]["echo"].tolist() for place in (0, 2, 3)] == [
        [["fine"]],
        [["good"]],
        [["well"]],
    ]
    assert answers[1].status == 400
    assert "input 'text' is not UTF-8" in answers[1].reason


def test_a_bare_configuration_is_completed_from_the_graph(
    server: RunningTriton, triton: TritonEndpoint
) -> None:
    config = loaded_config(triton.url, triton.control_key, "bare", 1)
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    tensors = {t["name"]: (t["data_type"], t["dims"]) for t in config["input"] + config["output"]}
    assert tensors == {
        "features": ("TYPE_FP32", [4]),
        "label": ("TYPE_INT64", [1]),
        "probabilities": ("TYPE_FP32", [3]),
    }
    answer = triton.infer("bare", 1, {"features": np.zeros((4, 4), np.float32)})
    assert answer["label"].tolist() == [[1]] * 4


def test_a_scalar_is_an_array_of_one_to_clients(triton: TritonEndpoint) -> None:
    answer = triton.infer("scalar", 1, {"x": np.array([2.5], np.float32)})
    assert answer["doubled"].tolist() == [5.0]


def test_an_optional_input_has_the_graphs_own_value_unless_given(triton: TritonEndpoint) -> None:
    rows = np.ones((1, 2), np.float32)
    assert triton.infer("optional", 1, {"x": rows})["scaled"].tolist() == [[3, 3]]
    given = {"x": rows, "scale": np.array([5], np.float32)}
    assert triton.infer("optional", 1, given)["scaled"].tolist() == [[5, 5]]


@pytest.mark.parametrize(
    ("end", "change", "reason"),
    [
        (None, ("dims: [4]", "dims: [5]"), r"\[-1, 5\].*\[-1, 4\]"),
        (None, ("TYPE_FP32", "TYPE_FP64"), "TYPE_FP64 in the config"),
        (None, ('"features"', '"rows"'), "needs the inputs features"),
        (None, ('"label"', '"class"'), "names the output 'class'"),
        (-200, ("backend", "backend"), "ONNX Runtime cannot load"),
        (
            None,
            ("backend", 'default_model_filename: "other.onnx" backend'),
            r"no model file.*other",
        ),
        (
            None,
            (
                "backend",
                'parameters { key: "execution_mode" value: { string_value: "7" } } backend',
            ),
            "execution_mode is 7",
        ),
    ],
    ids=["width", "type", "input", "output", "truncated", "file", "parameter"],
)
def test_an_entry_that_does_not_fit_is_refused_with_the_reason(
    server: RunningTriton,
    triton: TritonEndpoint,
    end: int | None,
    change: tuple[str, str],
    reason: str,
) -> None:
    text = config_text("refused", iris_classifier(), [1]).replace(*change, 1)
    directory = server.repository / "refused" / "1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(iris_classifier()[:end])
    write_config(server.repository, "refused", text)
    with pytest.raises(TritonRefused, match=f"(?s){reason}"):
        triton.load("refused")
    assert triton.ready_versions("refused") == ()
    assert triton.version_ready("iris", 1)


def test_options_of_the_configuration_reach_onnx_runtime(
    server: RunningTriton, triton: TritonEndpoint
) -> None:
    threads = {}
    for count in (1, 6):
        name = f"threads_{count}"
        extra = f"""
            parameters {{ key: "intra_op_thread_count" value: {{ string_value: "{count}" }} }}
            parameters {{ key: "enable_mem_arena" value: {{ string_value: "0" }} }}
            optimization {{ graph {{ level: 2 }} }}
            default_model_filename: "other.onnx"
        """
        write_entry(server.repository, name, {1: iris_classifier()}, extra=extra)
        directory = server.repository / name / "1"
        (directory / "model.onnx").rename(directory / "other.onnx")
        triton.load(name)
        (worker,) = [
            process
            for process in server.process.server.children()
            if str(directory) in process.cmdline()[1]
        ]
        threads[count] = worker.num_threads()
    assert threads[6] - threads[1] == 5
