"""From a graph to a program: the calls of its steps, what each next layer wishes, and when a value is done with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import fx, nn

from disbud.acceleration.calls import Call, OnFirst, RunAttribute, RunMethod, RunModule, RunRule, RunTorch
from disbud.acceleration.folding import RunFolded
from disbud.acceleration.fusing import Chain, chains
from disbud.acceleration.layers import SPARSE, Layer, RunLayer
from disbud.acceleration.nodes import Nodes
from disbud.acceleration.norms import RunNorm
from disbud.acceleration.program import Program, Ref, Runner, Step
from disbud.acceleration.reading import Region, spelled
from disbud.acceleration.rectified import RunRectifiedSum
from disbud.acceleration.rules import EACH, METHODS, MODULES
from disbud.acceleration.signals import Wish
from disbud.kernels.normalisation import NO_ACTIVATION, RELU


def runner_of(module: nn.Module, region: Region, layers: Mapping[int, Layer]) -> Runner:
    """The programs of a region whose layers run by the kernels they have now."""
    nodes = Nodes(module, layers)
    return Runner(
        module,
        follows_modes=spelled(region.training) != spelled(region.evaluation),
        training=_Builder(nodes, region.training, fold=False).program(),
        evaluation=_Builder(nodes, region.evaluation, fold=False).program(),
        inference=_Builder(nodes, region.evaluation, fold=True).program(),
    )


class _Builder:
    """From a graph to a program."""

    def __init__(self, nodes: Nodes, graph: fx.Graph, *, fold: bool) -> None:
        self.nodes = nodes
        self.graph = list(graph.nodes)
        self.place = {node: place for place, node in enumerate(self.graph)}
        found = chains(self.graph, nodes, fold=fold)
        self.chain_at = {chain.at: chain for chain in found}
        self.fused = {node for chain in found for node in chain.nodes} - self.chain_at.keys()
        self.wishes: dict[fx.Node, list[Layer]] = {}
        self.then_blocked: dict[fx.Node, bool] = {}
        for node in reversed(self.graph):
            self._look_ahead(node)

    def program(self) -> Program:
        inputs = tuple(node.name for node in self.graph if node.op == "placeholder")
        steps: list[Step] = []
        output: object = None
        for node in self.graph:
            if node.op == "output":
                output = _with_refs(node.args[0])
            elif node.op != "placeholder" and node not in self.fused:
                steps.append(self._step(node))
        return Program(inputs, tuple(_freeing(steps, output)), output)

    # Looking ahead

    def _look_ahead(self, node: fx.Node) -> None:
        """What the sparse layers that read this value next want, and whether the next layers are sparse at all."""
        self.wishes[node] = []
        self.then_blocked[node] = False
        for user in node.users:
            layer = self.nodes.layer(user)
            if layer is not None:
                self.then_blocked[node] |= layer.kernel == SPARSE
                # A border of its own is put around the ordinary tensor, so that no halo is of use.
                if layer.kernel == SPARSE and not layer.border:
                    self.wishes[node].append(layer)
            elif self.nodes.is_followed(user):
                self.then_blocked[node] |= self.then_blocked[user]
                if self.nodes.rule(user) in _HANDED_ON:
                    self.wishes[node] += self.wishes[user]

    def _wish(self, node: fx.Node) -> Wish:
        return Wish(layer.pattern for layer in self.wishes[node])

    # Steps

    def _step(self, node: fx.Node) -> Step:
        chain = self.chain_at.get(node)
        if chain is not None:
            last, args = chain.nodes[-1], tuple(Ref(source.name) for source in chain.inputs)
            in_place = chain.nodes[0] is chain.sum and self.nodes.changes_input(node)
            return Step(last.name, self._pass(chain), args, {}, self._wish(last), changes_input=in_place)
        layer = self.nodes.layer(node)
        if layer is not None:
            (source,) = node.all_input_nodes
            return Step(node.name, self._layer(node, layer), (Ref(source.name),), {}, self._wish(node))
        return Step(
            node.name,
            self._by_rule(node),
            tuple(_with_refs(arg) for arg in node.args),
            {key: _with_refs(value) for key, value in node.kwargs.items()},
            self._wish(node),
            changes_input=self.nodes.changes_input(node),
        )

    def _layer(self, node: fx.Node, layer: Layer) -> RunLayer:
        (source,) = node.all_input_nodes
        return RunLayer(
            layer,
            then_blocked=self.then_blocked[node],
            is_first=source.op == "placeholder",
            is_branch=any(self.place[user] > self.place[node] for user in source.users),
        )

    def _pass(self, chain: Chain) -> Call:
        parts = [self._part(node, chain) for node in chain.nodes if node is not chain.layer]
        if chain.norm is None:
            return RunRectifiedSum(parts)
        module = self.nodes.norm(chain.norm)
        assert module is not None
        norm = RunNorm(
            module,
            parts,
            slope=NO_ACTIVATION if chain.relu is None else RELU,
            pool=1 if chain.pool is None else 2,
            is_summed=chain.sum is not None,
        )
        layer = None if chain.layer is None else self.nodes.layer(chain.layer)
        if chain.layer is None or layer is None:
            return norm
        return RunFolded(self._layer(chain.layer, layer), self._wish(chain.layer), norm)

    def _part(self, node: fx.Node, chain: Chain) -> Call:
        if node is chain.norm:
            return self._plain(node)
        return self._by_rule(node) if node is chain.sum else _on_first(self._by_rule(node), node)

    def _by_rule(self, node: fx.Node) -> Call:
        rule, module = self.nodes.rule(node), self.nodes.module(node)
        if rule is None:
            return self._plain(node)
        settings = MODULES[type(module)][1] if module is not None and type(module) in MODULES else ()
        return RunRule(rule, self._plain(node), module, settings)

    def _plain(self, node: fx.Node) -> Call:
        if node.op == "get_attr":
            return RunAttribute(self.nodes.root, str(node.target))
        if node.op == "call_method":
            return RunMethod(str(node.target))
        module = self.nodes.module(node)
        if module is not None:
            torchs = type(module).__module__.startswith("torch.nn.modules")
            return RunTorch(module) if torchs else RunModule(module)
        assert callable(node.target)
        return RunTorch(node.target)


_HANDED_ON = frozenset(
    {*EACH.values(), *(METHODS[name] for name in METHODS if name not in ("mean", "size", "dim"))}
)


def _on_first(call: Call, node: fx.Node) -> Call:
    kwargs = {key: value for key, value in node.kwargs.items() if not isinstance(value, fx.Node)}
    return OnFirst(call, node.args[1:], kwargs)


def _with_refs(value: object) -> object:
    """A node's argument with the nodes in it as references."""
    if isinstance(value, fx.Node):
        return Ref(value.name)
    if isinstance(value, tuple | list):
        made = [_with_refs(item) for item in value]
        return tuple(made) if isinstance(value, tuple) else made
    if isinstance(value, Mapping):
        return {key: _with_refs(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*map(_with_refs, (value.start, value.stop, value.step)))
    return value


def _freeing(steps: list[Step], output: object) -> Iterator[Step]:
    """The steps, each with the values that nothing after it reads."""
    last: dict[str, int] = {}
    for place, step in enumerate(steps):
        for name in _names((step.args, step.kwargs)):
            last[name] = place
    for name in _names(output):
        last[name] = len(steps)
    for place, step in enumerate(steps):
        done = tuple(name for name, at in last.items() if at == place)
        unread = () if step.name in last else (step.name,)
        yield replace(step, done_with=(*done, *unread))


def _names(value: object) -> Iterator[str]:
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, Mapping):
        yield from _names(list(value.values()))
    elif isinstance(value, slice):
        yield from _names((value.start, value.stop, value.step))
