"""Graphs that answer as they should, but only after something that costs too much."""

from __future__ import annotations

import itertools
from typing import Any


def with_burden(graph: bytes, burden: str) -> bytes:
    """The same graph, whose output `probabilities` waits for a burden.

    `terabytes` and `gigabytes` of memory; `hours` of multiplications; `for ever`, a loop of 2^62
    rounds; the same loop `in a branch`; an operator of `others`; one of `chance`; `functions`
    that each call another twice.
    """
    import onnx
    from onnx import helper

    model = onnx.load_model_from_string(graph)
    for node in model.graph.node:
        node.output[:] = ["calm" if name == "probabilities" else name for name in node.output]
    match burden:
        case "terabytes":
            nodes = _memory(10**12)
        case "gigabytes":
            nodes = _memory(2**30)
        case "hours":
            nodes = _products(10_000)
        case "for ever":
            nodes = _loop()
        case "in a branch":
            nodes = _branch(_loop())
        case "others":
            nodes = _third_party_operator(model)
        case "chance":
            random = helper.make_node("RandomUniform", [], ["chance"], shape=[1], high=1e12)
            cast = helper.make_node("Cast", ["chance"], ["burden"], to=onnx.TensorProto.INT64)
            nodes = [random, cast]
        case _:
            nodes = _functions(model, 40)
    nodes += [
        helper.make_node("Cast", ["burden"], ["weight"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["calm", "weight"], ["probabilities"]),
    ]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _constant(name: str, values: Any, kind: str = "int64") -> Any:
    import numpy as np
    from onnx import helper, numpy_helper

    tensor = numpy_helper.from_array(np.array(values, dtype=kind))
    return helper.make_node("Constant", [], [name], value=tensor)


def _reduced(name: str) -> list[Any]:
    from onnx import TensorProto, helper

    return [
        helper.make_node("ReduceMax", [name], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["burden"], to=TensorProto.INT64),
    ]


def _memory(numbers: int) -> list[Any]:
    from onnx import helper

    many = helper.make_node("ConstantOfShape", ["size"], ["many"])
    return [_constant("size", [numbers]), many, *_reduced("many")]


def _products(count: int) -> list[Any]:
    from onnx import helper

    names = [f"product{number}" for number in range(count)]
    return [
        _constant("size", [3000, 3000]),
        helper.make_node("ConstantOfShape", ["size"], [names[0]]),
        *(
            helper.make_node("MatMul", [one, names[0]], [two])
            for one, two in itertools.pairwise(names)
        ),
        *_reduced(names[-1]),
    ]


def _loop() -> list[Any]:
    from onnx import TensorProto, helper

    def scalar(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [])

    inputs = [
        scalar("round", TensorProto.INT64),
        scalar("go", TensorProto.BOOL),
        scalar("before", TensorProto.INT64),
    ]
    outputs = [scalar("still", TensorProto.BOOL), scalar("after", TensorProto.INT64)]
    nodes = [
        helper.make_node("Identity", ["go"], ["still"]),
        helper.make_node("Identity", ["before"], ["after"]),
    ]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    return [
        _constant("rounds", 1 << 62),
        _constant("going", True, "bool"),
        _constant("zero", 0),
        helper.make_node("Loop", ["rounds", "going", "zero"], ["burden"], body=body),
    ]


def _branch(nodes: list[Any]) -> list[Any]:
    from onnx import TensorProto, helper

    output = helper.make_tensor_value_info("burden", TensorProto.INT64, [])
    branch = helper.make_graph(nodes, "branch", [], [output])
    choice = helper.make_node("If", ["yes"], ["burden"], then_branch=branch, else_branch=branch)
    return [_constant("yes", True, "bool"), choice]


def _third_party_operator(model: Any) -> list[Any]:
    from onnx import helper

    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    gelu = helper.make_node("Gelu", ["one"], ["gelu"], domain="com.microsoft")
    return [_constant("one", 1.0, "float32"), gelu, *_reduced("gelu")]


def _functions(model: Any, depth: int) -> list[Any]:
    from onnx import helper

    opsets = [helper.make_opsetid("own", 1), model.opset_import[0]]
    model.opset_import.append(opsets[0])
    for level in range(depth):
        domain, name = ("own", f"f{level - 1}") if level else ("", "Neg")
        twice = [
            helper.make_node(name, ["a"], ["b"], domain=domain),
            helper.make_node(name, ["b"], ["c"], domain=domain),
        ]
        function = helper.make_function("own", f"f{level}", ["a"], ["c"], twice, opsets)
        model.functions.append(function)
    call = helper.make_node(f"f{depth - 1}", ["one"], ["called"], domain="own")
    return [_constant("one", 1.0, "float32"), call, *_reduced("called")]
