"""What every attribution method must prove, whoever wrote it.

    class TestMine(MethodConformance):
        methods = st.builds(Mine, steps=st.integers(1, 9))

Each test draws the method's parameters from ``methods``; the other attributes may be overridden
for a method that needs a special network or larger images.

Shape suffixes: N objects, T targets, C channels, H height, W width.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from attribution import Layout, Method, Partial, Prediction, explain
from attribution.arrays import Channels
from attribution.batch import Batch, Needs, reproducible
from attribution.explain import complete, make_batch
from attribution.layers import layer_shapes
from attribution.method import Targets
from attribution.partials import Array

some_methods = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    # The tests are inherited on purpose, and build what they need without fixtures.
    suppress_health_check=[HealthCheck.differing_executors],
)


NOTHING = Needs()


class MethodConformance:
    """Inherit it, say how to draw the method, and every promise of a `Method` is tested."""

    methods: ClassVar[st.SearchStrategy[Method]]
    """Draws the method under test; several blocks of ``micro_batch`` parts should be likely."""
    image_shape: ClassVar[tuple[int, int, int]] = (2, 9, 8)
    classes: ClassVar[int] = 5
    layers: ClassVar[tuple[str, ...]] = ()
    """Layers that the drawn methods may need."""
    micro_batch: ClassVar[int] = 4
    seed: ClassVar[int] = 7

    def network(self) -> nn.Module:
        """Build a network that the method applies to: (N, *image_shape) to (N, classes)."""
        return convolutional_network(self.image_shape[0], self.classes)

    def images(self, count: int, seed: int = 0) -> torch.Tensor:
        """Draw network inputs."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, *self.image_shape, generator=generator)

    def targets(self, count: int) -> Targets:
        """Choose two different classes per object."""
        first = np.arange(count) % self.classes
        return np.stack((first, (first + 1) % self.classes), axis=1)

    # The parts axis: cuts, orders of arrival, the monoid.

    @some_methods
    @given(st.data())
    def test_any_cut_and_any_order_of_arrival_give_the_bits_of_one_cut(self, data):
        method = data.draw(self.methods)
        shares = self._shares(method, data.draw(st.lists(st.integers(0, 30), max_size=4)))
        whole = self._complete(method, self._partial(method))
        in_order = self._complete(method, _merged(shares))
        as_they_came = self._complete(method, _merged(data.draw(st.permutations(shares))))
        _same_arrays(in_order, whole)
        _same_arrays(as_they_came, whole)

    @some_methods
    @given(st.data())
    def test_merging_is_commutative_and_associative(self, data):
        method = data.draw(self.methods)
        a, b, c, *_ = self._shares(method, data.draw(st.lists(st.integers(0, 30), min_size=2)))
        _same_partial(a.merge(b), b.merge(a))
        _same_partial(a.merge(b).merge(c), a.merge(b.merge(c)))

    @some_methods
    @given(st.data())
    def test_the_empty_partial_is_neutral_and_merging_changes_no_operand(self, data):
        method = data.draw(self.methods)
        partial, twin, empty = self._partial(method), self._partial(method), Partial(method.rules)
        _same_partial(partial.merge(empty), twin)
        _same_partial(empty.merge(partial), twin)
        _same_partial(partial, twin)
        assert not empty.nodes

    @some_methods
    @given(st.data())
    def test_a_block_that_arrives_twice_or_never_is_refused(self, data):
        method = data.draw(self.methods)
        blocks = method.blocks(self.image_shape, self.micro_batch)
        block = data.draw(st.integers(0, blocks - 1))
        whole, part = self._partial(method), self._partial(method, range(block, block + 1))
        for left, right in ((whole, part), (part, whole)):
            with pytest.raises(ValueError, match=f"block {block} arrived twice"):
                left.merge(right)
        rest = _merged(
            [Partial(method.rules)]
            + [self._partial(method, range(b, b + 1)) for b in range(blocks) if b != block]
        )
        with pytest.raises(ValueError, match=r"missing from the partial|covers \d+ blocks"):
            self._complete(method, rest)
        with pytest.raises(ValueError, match=rf"covers {blocks} blocks, expected {blocks + 1}"):
            whole.total(blocks + 1)

    # What a result must not depend on.

    @some_methods
    @given(st.data())
    def test_results_do_not_depend_on_the_other_objects(self, data):
        method = data.draw(self.methods)
        images, others = self.images(7), self.images(7, seed=1)
        row = data.draw(st.integers(0, 6))
        others[row] = images[row]
        ids = [str(n) for n in range(7)]
        strangers = [name if n == row else f"other {name}" for n, name in enumerate(ids)]
        arrays = self._explain(method, images, ids=ids)
        among_others = self._explain(method, others, ids=strangers)
        for name, array in arrays.items():
            _same_bits(among_others[name][row], array[row], name)

    @some_methods
    @given(st.data())
    def test_results_do_not_depend_on_padding(self, data):
        method = data.draw(self.methods)
        images = self.images(7)
        count = data.draw(st.integers(1, 6))
        arrays = self._explain(method, images)
        for name, array in self._explain(method, images[:count]).items():
            _same_bits(array, arrays[name][:count], name)

    @some_methods
    @given(st.data())
    def test_absent_objects_are_nan_and_leave_their_neighbours_unchanged(self, data):
        method = data.draw(self.methods)
        present = np.array(data.draw(st.permutations([True, True, False, False])))
        everyone = self._complete(method, self._partial(method))
        some = self._complete(
            method, self._partial(method, present=present), batch=self._batch(method, present)
        )
        for name, array in some.items():
            _same_bits(array[present], everyone[name][present], name)
            if np.issubdtype(array.dtype, np.floating):
                assert np.isnan(array[~present]).all()

    @some_methods
    @given(st.data())
    def test_results_do_not_depend_on_threads_and_repeat(self, data):
        method = data.draw(self.methods)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 2):
                torch.set_num_threads(threads)
                results.append(self._explain(method, self.images(5)))
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            _same_arrays(other, results[0])

    @some_methods
    @given(st.data())
    def test_results_do_not_depend_on_the_methods_that_share_the_batch(self, data):
        method = data.draw(self.methods)
        alone = self._complete(method, self._partial(method))
        batch = self._batch(method, needs=Needs(gradients=True))
        with reproducible():
            for other in (Prediction(), method):
                partial = other.partial(batch, self.targets(len(batch)))
                arrays = self._complete(other, partial, batch=batch)
        _same_arrays(arrays, alone)

    # What a method says about itself.

    @some_methods
    @given(st.data(), st.sampled_from(["sum", "keep"]))
    def test_arrays_describes_what_comes_out(self, data, channels):
        method = data.draw(self.methods)
        layout = self._layout(channels)
        specs = method.arrays(layout)
        arrays = self._explain(method, self.images(6), channels=channels)
        assert list(arrays) == [spec.name for spec in specs]
        for spec in specs:
            assert arrays[spec.name].shape == (6, *spec.shape)
            assert arrays[spec.name].dtype == np.dtype(spec.dtype)
            assert len(spec.dims) == len(spec.shape) == len(set(spec.dims))
            assert spec.long_name
            assert spec.units
            assert json.loads(json.dumps(dict(spec.attributes))) == dict(spec.attributes)
            # The network's own output follows no one's definition.
            assert spec.convention or isinstance(method, Prediction)
            if spec.is_map and spec.dims[-1] == "x":
                assert spec.dims == layout.map_dims
                assert spec.attributes["channels"] == channels

    @some_methods
    @given(st.data())
    def test_kept_channels_sum_to_the_summed_map(self, data):
        method = data.draw(self.methods)
        arrays = {
            channels: self._complete(method, self._partial(method), channels=channels)
            for channels in ("sum", "keep")
        }
        for spec in method.arrays(self._layout("keep")):
            kept, summed = arrays["keep"][spec.name], arrays["sum"][spec.name]
            if "channel" in spec.dims:
                kept = kept.sum(axis=1 + spec.dims.index("channel"))
            np.testing.assert_allclose(kept, summed, rtol=1e-12, atol=1e-14)

    @some_methods
    @given(st.data())
    def test_no_target_is_nan_there_and_nowhere_else(self, data):
        method = data.draw(self.methods)
        targets = self.targets(6)
        full = self._explain(method, self.images(6), targets=targets)
        missing = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12)))
        missing = missing.reshape(6, 2)
        arrays = self._explain(method, self.images(6), targets=np.where(missing, -1, targets))
        for spec in method.arrays(self._layout()):
            array = arrays[spec.name]
            if spec.dims[:1] != ("target",):
                _same_bits(array, full[spec.name], spec.name)
                continue
            _same_bits(array[~missing], full[spec.name][~missing], spec.name)
            floating = np.issubdtype(array.dtype, np.floating)
            assert np.all(np.isnan(array[missing]) if floating else array[missing] == -1)
            assert np.isfinite(array[~missing]).all()

    @some_methods
    @given(st.data())
    def test_the_pixel_map_has_the_shape_of_the_image(self, data):
        method = data.draw(self.methods)
        maps = []
        for channels in ("sum", "keep"):
            arrays = self._complete(method, self._partial(method), channels=channels)
            maps.append(method.pixel_map(arrays, self._layout(channels)))
        if maps[0] is None:
            assert maps[1] is None
            return
        assert maps[0].shape == (self.micro_batch, 2, *self.image_shape[1:])
        np.testing.assert_allclose(maps[1], maps[0], rtol=1e-12, atol=1e-14)

    @some_methods
    @given(st.data())
    def test_passes_are_as_announced(self, data):
        method = data.draw(self.methods)
        announced = method.passes(self._layout())
        batch = self._batch(method)
        with reproducible():
            assert batch.logits_NK.shape == (self.micro_batch, self.classes)
            method.partial(batch, self.targets(len(batch)))
        # The prediction is itself the shared pass; one baseline may serve the whole batch.
        shared = 0 if isinstance(method, Prediction) else 1
        expected = (announced[0] + shared) * len(batch)
        assert expected <= batch.passes.forward <= expected + 1
        assert batch.passes.backward == announced[1] * len(batch)

    # What a method must leave as it was.

    @some_methods
    @given(st.data())
    def test_the_network_is_left_as_it_was(self, data):
        method = data.draw(self.methods)
        network = self.network()
        modules = list(network.modules())
        for number, module in enumerate(modules):
            module.training = number % 3 != 0
        next(iter(network.parameters())).requires_grad_(False)
        state = {name: value.clone() for name, value in network.state_dict().items()}
        flags = [module.training for module in modules]
        wanted = [parameter.requires_grad for parameter in network.parameters()]
        explain(network, self.images(5), method, micro_batch=self.micro_batch)
        assert [module.training for module in modules] == flags
        assert [parameter.requires_grad for parameter in network.parameters()] == wanted
        assert all(parameter.grad is None for parameter in network.parameters())
        assert not any(_hooks(module) for module in modules)
        assert set(network.state_dict()) == set(state)
        for name, value in network.state_dict().items():
            _same_bits(value.numpy(), state[name].numpy(), name)

    @some_methods
    @given(st.data())
    def test_images_survive_a_network_that_overwrites_its_input(self, data):
        method = data.draw(self.methods)
        batches = [self._batch(method), self._batch(method)]
        batches[1].network = _overwriting(self.network().eval())
        results = []
        for batch in batches:
            with reproducible():
                partial = method.partial(batch, self.targets(len(batch)))
                results.append(self._complete(method, partial, batch=batch))
            assert torch.equal(batch.images, self.images(len(batch)))
        _same_arrays(results[1], results[0])

    @some_methods
    @given(st.data())
    def test_results_are_no_views_of_the_partial_or_the_batch(self, data):
        method = data.draw(self.methods)
        batch, partial = self._batch(method), self._partial(method)
        first = self._complete(method, partial, batch=batch)
        kept = {name: array.copy() for name, array in first.items()}
        for array in first.values():
            array[...] = 0
        _same_arrays(self._complete(method, partial, batch=batch), kept)

    def _layout(self, channels: Channels = "sum") -> Layout:
        layers = layer_shapes(self.network().eval(), self.image_shape, self.layers)
        return Layout(self.image_shape, self.classes, 2, channels, layers)

    def _batch(
        self, method: Method, present: Array | None = None, *, needs: Needs = NOTHING
    ) -> Batch:
        images = self.images(self.micro_batch)
        if present is not None:
            images = torch.where(torch.as_tensor(present)[:, None, None, None], images, 0)
        return make_batch(
            self.network().eval(),
            images,
            [f"object {n}" for n in range(self.micro_batch)],
            self.micro_batch,
            seed=self.seed,
            needs=needs | method.needs,
            present_N=present,
        )

    def _partial(
        self, method: Method, blocks: range | None = None, *, present: Array | None = None
    ) -> Partial:
        """Compute as a replica of its own would: nothing is kept from other shares."""
        batch = self._batch(method, present)
        with reproducible():
            return method.partial(batch, self.targets(len(batch)), blocks)

    def _shares(self, method: Method, cuts: Sequence[int]) -> list[Partial]:
        blocks = method.blocks(self.image_shape, self.micro_batch)
        edges = [0, *sorted(cut % (blocks + 1) for cut in cuts), blocks]
        return [self._partial(method, range(*ends)) for ends in itertools.pairwise(edges)]

    def _complete(
        self,
        method: Method,
        partial: Partial,
        *,
        batch: Batch | None = None,
        channels: Channels = "sum",
    ) -> dict[str, Array]:
        batch = self._batch(method) if batch is None else batch
        with reproducible():
            return complete(
                method, partial, batch, self.targets(len(batch)), self._layout(channels)
            )

    def _explain(
        self,
        method: Method,
        images: torch.Tensor,
        *,
        targets: Targets | None = None,
        ids: Sequence[str] | None = None,
        channels: Channels = "sum",
    ) -> dict[str, Array]:
        return explain(
            self.network(),
            images,
            method,
            targets=self.targets(len(images)) if targets is None else targets,
            ids=ids,
            seed=self.seed,
            micro_batch=self.micro_batch,
            channels=channels,
        )


def convolutional_network(channels: int, classes: int) -> nn.Module:
    """Build a small network with the layers that galaxy networks have, the same each time."""
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.3),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, classes),
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in (*network.parameters(), network[1].running_mean):
            value.copy_(torch.randn(value.shape, generator=generator) / 2)
        network[1].running_var.copy_(torch.rand(4, generator=generator) + 0.5)
    return network


def _overwriting(network: nn.Module) -> nn.Module:
    """Make a network, and its copies, overwrite their input; its layers keep their names."""
    kind = type(network)

    def forward(self: nn.Module, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = kind.forward(self, images.clone())
        images.zero_()
        return logits

    # A bound method: a copy of the network gets one of its own.
    network.forward = MethodType(forward, network)  # type: ignore[method-assign]
    return network


def _merged(partials: Sequence[Partial]) -> Partial:
    merged = partials[0]
    for partial in partials[1:]:
        merged = merged.merge(partial)
    return merged


def _hooks(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)


def _same_bits(left: Array, right: Array, name: str) -> None:
    assert left.dtype == right.dtype, name
    assert left.shape == right.shape, name
    if left.tobytes() != right.tobytes():
        np.testing.assert_array_equal(left, right, err_msg=name)
        raise AssertionError(f"{name}: the signs of zeros or the payloads of NaN differ")


def _same_arrays(left: Mapping[str, Array], right: Mapping[str, Array]) -> None:
    assert set(left) == set(right)
    for name in left:
        _same_bits(left[name], right[name], name)


def _same_partial(left: Partial, right: Partial) -> None:
    assert set(left.nodes) == set(right.nodes)
    for node, terms in left.nodes.items():
        _same_arrays(terms, right.nodes[node])
