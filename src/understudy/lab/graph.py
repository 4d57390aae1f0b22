"""Owns the ONNX graphs of the lab's nets, built node by node from their weights.

Not traced by an exporter: there are two nets, known to the last layer, and what a tracer cannot
know is what makes these graphs fast. Batch norms are folded into the convolutions before them.
The 1-D net is written as a 2-D net of height 1, since only 2-D convolutions get ONNX Runtime's
blocked layout (half the time). The streaming graph's caches are named inputs and outputs. And the
spectrum is a DFT folded about the window's centre. It takes tens of milliseconds, where tracing
with a dynamic time axis takes tens of seconds, and only `onnx` has to be installed.

Layouts: `audio` [batch, samples], `features` [batch, bands, frames], `logits` or `embedding`
[batch, n], or [batch, n, frames] with scores for every frame. In a streaming graph `batch` is
`slots`, and each cache `NAME` comes back as `next_NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from understudy.lab.frontend import Floats, FrontEnd, filters, span, window
from understudy.lab.nets import DILATIONS

OPSET: Final = 17
IR_VERSION: Final = 9  # what onnxruntime 1.18 reads
LAST: Final = 2**31 - 1
TIME: Final = 3  # [batch, channels, 1, frames]
FRONT_END: Final = "frontend/"  # how the names of its nodes begin
EPS: Final = 1e-12  # as torch.nn.functional.normalize
NORM_EPS: Final = 1e-5  # as torch.nn.BatchNorm1d and 2d

Weights = Mapping[str, Floats]  # a state_dict, as arrays
Caches = dict[str, tuple[int, ...]]  # name to shape, without the axis of slots


class Graph:
    """An ONNX graph in the making. Names are given in order: the same net, the same file."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self.caches: Caches = {}
        self.prefix = ""

    def take(self, name: str, *shape: int | str) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def give(self, name: str, *shape: int | str) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"{self.prefix}constant_{len(self._constants)}"
        array = np.ascontiguousarray(value, dtype)
        self._constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def axes(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def add(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        name = f"{self.prefix}{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [out or name], name, **attributes))
        return out or name

    def cut(self, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        ends = (self.axes(start), self.axes(end), self.axes(axis), self.axes(step))
        return self.add("Slice", x, *ends)

    def remember(self, name: str, x: str, axis: int, shape: tuple[int, ...]) -> str:
        """x with its past before it; the past is a cache of that shape, [slots, *shape]."""
        self.caches[name] = shape
        self.take(name, "slots", *shape)
        self.give(f"next_{name}", "slots", *shape)
        whole = self.add("Concat", name, x, axis=axis)
        past = shape[axis - 1]
        ends = (self.axes(-past), self.axes(LAST), self.axes(axis))
        self.add("Slice", whole, *ends, out=f"next_{name}")
        return whole

    def model(self, name: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, initializer=self._constants
        )
        opset = helper.make_opsetid("", OPSET)
        made = helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="understudy"
        )
        onnx.checker.check_model(made, full_check=True)
        return made


def offline(
    config: Mapping[str, Any], weights: Weights, frontend: FrontEnd, inside: bool
) -> onnx.ModelProto:
    """The graph that hears whole clips."""
    graph = Graph()
    if inside:
        features = _front_end(graph, frontend, graph.take("audio", "batch", "samples"), True)
    else:
        features = graph.take("features", "batch", frontend.bands, "frames")
    name, size = output_of(config)
    if config["name"] == "small":
        x = graph.add("Unsqueeze", features, graph.axes(1))
        for n in range(3):
            w, b = _folded(weights, f"blocks.{n}.0", f"blocks.{n}.1")
            x = graph.add("Conv", x, graph.constant(w), graph.constant(b), pads=[1, 1, 1, 1])
            x = graph.add("MaxPool", graph.add("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    else:
        x = _stream_blocks(graph, weights, features, streaming=False)
    if config["per_frame"]:
        x = _sliding_mean(graph, x, config["window"], config["width"], streaming=False)
        _head_of_frames(graph, weights, x, config)
        graph.give(name, "batch", size, "frames")
        return graph.model("understudy_listen")
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    head = (graph.constant(weights["head.weight"]), graph.constant(weights["head.bias"]))
    to = None if config["embedding"] else name
    scores = graph.add("Gemm", x, *head, out=to, transB=1)
    if config["embedding"]:
        _normalise(graph, scores, name)
    graph.give(name, "batch", size)
    return graph.model("understudy_listen")


def streaming(
    config: Mapping[str, Any], weights: Weights, frontend: FrontEnd, inside: bool
) -> tuple[onnx.ModelProto, Caches]:
    """The graph that hears the next frames of live streams, and the caches it goes on from.

    All zeros is a stream's start. Its scores are those of `StreamNet.sliding`.
    """
    graph = Graph()
    name, size = output_of(config)
    if inside:
        hops = graph.take("audio", "slots", "samples")
        features = _front_end(graph, frontend, hops, False)
    else:
        features = graph.take("features", "slots", frontend.bands, "frames")
    graph.give(name, "slots", size, "frames")
    x = _stream_blocks(graph, weights, features, streaming=True)
    x = _sliding_mean(graph, x, config["window"], config["width"], streaming=True)
    _head_of_frames(graph, weights, x, config)
    return graph.model("understudy_listen_stream"), graph.caches


def output_of(config: Mapping[str, Any]) -> tuple[str, int]:
    """(name, size) of the graph's output."""
    if config["embedding"]:
        return "embedding", int(config["embedding"])
    return "logits", int(config["classes"])


def _folded(weights: Weights, conv: str, norm: str) -> tuple[Floats, Floats]:
    """A convolution's (weights, bias) with the batch norm after it folded in."""
    kernel = weights[f"{conv}.weight"].astype(np.float64)
    before = weights.get(f"{conv}.bias", np.zeros(1, np.float32)).astype(np.float64)
    spread = weights[f"{norm}.running_var"].astype(np.float64) + NORM_EPS
    gain = weights[f"{norm}.weight"] / np.sqrt(spread)
    bias = weights[f"{norm}.bias"] + (before - weights[f"{norm}.running_mean"]) * gain
    scaled = kernel * gain.reshape(-1, *[1] * (kernel.ndim - 1))
    return scaled.astype(np.float32), bias.astype(np.float32)


def _stream_blocks(graph: Graph, weights: Weights, features: str, *, streaming: bool) -> str:
    """The stem and the blocks: [batch, bands, frames] -> [batch, channels, 1, frames]."""

    def convolve(x: str, conv: str, norm: str, **attributes: Any) -> str:
        w, b = _folded(weights, conv, norm)
        flat = graph.constant(w[:, :, None, :])
        return graph.add("Relu", graph.add("Conv", x, flat, graph.constant(b), **attributes))

    x = graph.add("Unsqueeze", features, graph.axes(2))
    x = convolve(x, "stem", "norm")
    for n, dilation in enumerate(DILATIONS):
        block = f"blocks.{n}"
        channels, _, taps = weights[f"{block}.depthwise.weight"].shape
        past = (taps - 1) * dilation
        pads = [0, 0 if streaming else past, 0, 0]
        whole = graph.remember(f"cache_{n}", x, TIME, (channels, 1, past)) if streaming else x
        inner = convolve(
            whole,
            f"{block}.depthwise",
            f"{block}.norm1",
            dilations=[1, dilation],
            group=channels,
            pads=pads,
        )
        inner = convolve(inner, f"{block}.pointwise", f"{block}.norm2")
        x = graph.add("Add", x, inner)
    return x


def _sliding_mean(graph: Graph, x: str, frames: int, channels: int, *, streaming: bool) -> str:
    """The mean over the last `frames` frames, or over all where there have been fewer."""
    if frames == 1:
        return x
    now = graph.add("Squeeze", graph.add("Shape", x, start=TIME, end=TIME + 1))
    now = graph.add("Cast", now, to=TensorProto.FLOAT)
    one = graph.constant(1.0)
    ordinal = graph.add("Range", one, graph.add("Add", now, one), one)  # 1, 2, ... [frames]
    if streaming:
        graph.caches["seen"] = (1,)
        seen = graph.take("seen", "slots", 1)
        graph.give("next_seen", "slots", 1)
        most = graph.constant(float(frames))
        graph.add("Min", graph.add("Add", seen, now), most, out="next_seen")
        ordinal = graph.add("Unsqueeze", graph.add("Add", seen, ordinal), graph.axes(1, 2))
        whole = graph.remember("cache_mean", x, TIME, (channels, 1, frames - 1))
        pads = [0, 0, 0, 0]
    else:
        whole, pads = x, [0, frames - 1, 0, 0]
    mean = graph.add("AveragePool", whole, kernel_shape=[1, frames], pads=pads, count_include_pad=1)
    wanted = graph.add("Min", ordinal, graph.constant(float(frames)))
    return graph.add("Mul", mean, graph.add("Div", graph.constant(float(frames)), wanted))


def _head_of_frames(graph: Graph, weights: Weights, x: str, config: Mapping[str, Any]) -> None:
    """The linear head at each frame: [batch, channels, 1, frames] -> [batch, n, frames]."""
    name, _ = output_of(config)
    kernel = graph.constant(weights["head.weight"][:, :, None, None])
    scores = graph.add("Conv", x, kernel, graph.constant(weights["head.bias"]))
    flat = graph.axes(2)
    if config["embedding"]:
        _normalise(graph, graph.add("Squeeze", scores, flat), name)
    else:
        graph.add("Squeeze", scores, flat, out=name)


def _normalise(graph: Graph, x: str, out: str) -> None:
    """To length 1 along axis 1."""
    length = graph.add("ReduceL2", x, axes=[1], keepdims=1)
    graph.add("Div", x, graph.add("Max", length, graph.constant(EPS)), out=out)


def dft(frontend: FrontEnd) -> tuple[Floats, Floats]:
    """(cosines, sines) with the window in them, folded about its centre: each [fft/2, bins].

    A periodic Hann window and a cosine are even about sample fft/2, a sine is odd, so that
    X = Σ e·cos - i·Σ o·sin with e, o = x[n] ± x[fft - n], n = 1 … fft/2: half the products and
    half the constants of a DFT written as a convolution. (Sample 0 has the weight 0.)
    """
    half, bins = frontend.fft // 2, span(frontend)
    n = np.arange(1, half + 1)[:, None]
    angle = 2.0 * np.pi * n * np.arange(bins.start, bins.stop)[None] / frontend.fft
    shape = window(frontend).astype(np.float64)[1 : half + 1, None].copy()
    cosines, sines = shape * np.cos(angle), shape * np.sin(angle)
    cosines[-1] *= 0.5  # the centre is its own mirror image
    return cosines.astype(np.float32), sines.astype(np.float32)


def _front_end(graph: Graph, frontend: FrontEnd, audio: str, whole: bool) -> str:
    """FrontEnd in the graph: [batch, samples] -> [batch, bands, frames].

    `whole`: from the start of the audio, its last unfinished hop dropped; else the next hops.
    """
    graph.prefix = FRONT_END
    fft, hop, lead = frontend.fft, frontend.hop, frontend.fft - frontend.hop
    if whole:
        samples = graph.add("Shape", audio, start=1, end=2)
        size = graph.axes(hop)
        full = graph.add("Mul", graph.add("Div", samples, size), size)
        audio = graph.add("Slice", audio, graph.axes(0), full, graph.axes(1))
        audio = graph.add("Pad", audio, graph.axes(0, lead, 0, 0))
    else:
        audio = graph.remember("cache_audio", audio, 1, (lead,))
    frames = _frames(graph, audio, fft, hop)
    half = fft // 2
    head = graph.cut(frames, 1, half + 1, 2)
    tail = graph.cut(frames, fft - 1, half - 1, 2, -1)
    power = []
    for kind, table in zip(("Add", "Sub"), dft(frontend), strict=True):
        part = graph.add("MatMul", graph.add(kind, head, tail), graph.constant(table))
        power.append(graph.add("Mul", part, part))
    mel = graph.constant(filters(frontend)[:, span(frontend)].T)
    bands = graph.add("MatMul", graph.add("Add", *power), mel)
    bands = graph.add("Log", graph.add("Add", bands, graph.constant(frontend.floor)))
    bands = graph.add("Mul", bands, graph.constant(1.0 / frontend.std))
    bands = graph.add("Add", bands, graph.constant(-frontend.mean / frontend.std))
    features = graph.add("Transpose", bands, perm=[0, 2, 1])
    graph.prefix = ""
    return features


def _frames(graph: Graph, audio: str, fft: int, hop: int) -> str:
    """[batch, fft - hop + n·hop] -> [batch, n, fft]: every hop, put together of common pieces."""
    piece = gcd(fft, hop)
    a_frame, a_hop = fft // piece, hop // piece
    pieces = graph.add("Reshape", audio, graph.constant((0, -1, piece), np.int64))
    rows = []
    for n in range(a_frame):
        later = n - (a_frame - a_hop)  # pieces that follow in the last frame, if below zero
        rows.append(graph.cut(pieces, n, later if later < 0 else LAST, 1, a_hop))
    return graph.add("Concat", *rows, axis=2) if len(rows) > 1 else rows[0]
