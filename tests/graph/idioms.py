"""Idioms of well-known projects: sums that start at zeros, embeddings, learned positions and states, experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.mechanisms import case, cbr, conv, head, net

# -- tensors made like others, or at the shape of others ---------------------------------------------------------------


@case(removable=0.9)
def a_sum_from_zeros_like() -> nn.Module:
    """The skips of WaveGlow (arXiv 1811.00002) begin at zeros that are as large as the stream."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        out = torch.zeros_like(x)
        out = out + s.b(x)
        out += s.c(F.relu(x))
        return s.head(out)

    return net(forward, a=cbr(3, 8), b=conv(8, 8), c=conv(8, 8), head=head(8))


@case(removable=0.9)
def states_like_the_input() -> nn.Module:
    """The first state is joined to what a cell reads, or read by a convolution of its own."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        first, second = torch.zeros_like(x), torch.full_like(x, 0.5)
        for _ in range(2):
            z = s.z(torch.cat([x, first], 1)).sigmoid()
            first = (1 - z) * first + z * s.n(torch.cat([x, first], 1)).tanh()
            second = (s.i(x) + s.h(second)).tanh()
        return s.head(torch.cat([first, second], 1))

    parts = {"z": conv(16, 8), "n": conv(16, 8), "i": conv(8, 8), "h": conv(8, 8)}
    return net(forward, a=cbr(3, 8), **parts, head=head(16))


@case(removable=0.9)
def zeros_like_one_channel() -> nn.Module:
    """A mask made like one channel follows nothing."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(x) * torch.ones_like(x[:, :1]))

    return net(forward, a=cbr(3, 8), b=conv(8, 6), head=head(6))


@case(removable=0.9)
def zeros_at_the_shape_of_others() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        out = torch.zeros(x.shape, dtype=x.dtype)
        for layer in (s.b, s.c):
            out = out + layer(x)
        return s.head(out)

    return net(forward, a=cbr(3, 8), b=conv(8, 8), c=conv(8, 8), head=head(8))


@case(removable=0.9)
def zeros_at_the_shape_of_others_in_a_loop() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        out = torch.zeros(x.size(), dtype=x.dtype)
        for i in range(x.shape[-1] // 4):
            out = out + s.b(x).roll(i, -1)
        return s.head(out)

    return net(forward, a=cbr(3, 8), b=conv(8, 8), head=head(8))


# -- one dimension laid out along several ------------------------------------------------------------------------------


@case(2, 5, removable=0.9)
def unflatten_layers() -> nn.Module:
    """Decoders begin with a layer whose size is an attribute of the module."""
    up = nn.Sequential(nn.Linear(5, 48), nn.Unflatten(1, (12, 2, 2)), conv(12, 6), nn.ReLU())
    return nn.Sequential(up, nn.Flatten(), nn.Linear(24, 16), nn.Unflatten(-1, (8, -1, 2)), nn.Conv2d(8, 3, 1))


@case(2, 5, removable=0.9)
def unflatten_in_code() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.b(F.relu(s.a(x).unflatten(1, (12, 2, 2))))

    return net(forward, a=nn.Linear(5, 48), b=conv(12, 3))


@case(2, 5, removable=0.9)
def unflatten_in_a_loop() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return torch.stack([s.b(torch.unflatten(x[i], 0, (12, 2, -1))) for i in range(x.shape[0])])

    return net(forward, a=nn.Linear(5, 48), b=conv(12, 3))


# -- modules that move channels, and pools with a way back ------------------------------------------------------------


@case(removable=0.9)
def channel_shuffle_layers() -> nn.Module:
    """Between grouped convolutions (ShuffleNet, arXiv 1707.01083)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)
        x = F.relu(x + s.c(s.b(s.shuffle(s.a(x)))))
        return s.head(x)

    return net(
        forward,
        stem=cbr(3, 12),
        a=cbr(12, 12, 1, groups=3),
        shuffle=nn.ChannelShuffle(3),
        b=conv(12, 12, groups=12),
        c=conv(12, 12, 1, groups=3),
        head=head(12),
    )


@case(removable=0.9)
def channel_shuffle_before_two_groups() -> nn.Module:
    return nn.Sequential(cbr(3, 8), nn.ChannelShuffle(2), cbr(8, 12, groups=2), head(12))


@case(removable=0.9)
def channel_shuffle_of_a_single_unit() -> nn.Module:
    """All channels of the depthwise convolution may come to be one unit: their order matters all the same."""
    shuffled = [conv(8, 8, 1, groups=4), nn.ChannelShuffle(4), conv(8, 8, groups=8)]
    return nn.Sequential(cbr(3, 8), *shuffled, conv(8, 8, 1, groups=4), nn.ReLU(), head(8))


@case(removable=0.9)
def unpooling_by_indices() -> nn.Module:
    """SegNet (arXiv 1511.00561): what was pooled and what is put back have the same channels."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x, outer = s.pool(s.a(x))
        x, inner = F.max_pool2d(s.b(x), 2, return_indices=True)
        x = s.d(F.max_unpool2d(s.c(x), inner, 2))
        return s.head(s.unpool(x, outer))

    pools = {"pool": nn.MaxPool2d(2, return_indices=True), "unpool": nn.MaxUnpool2d(2)}
    return net(forward, a=cbr(3, 8), b=cbr(8, 10), c=cbr(10, 10), d=cbr(10, 8), **pools, head=head(8))


@case(2, 3, 16, removable=0.9)
def unpooling_in_one_dimension() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x, places = F.max_pool1d(s.a(x), 2, return_indices=True)
        return s.out(F.max_unpool1d(s.b(x).relu(), places, 2))

    return net(forward, a=nn.Conv1d(3, 8, 1), b=nn.Conv1d(8, 8, 1), out=nn.Conv1d(8, 4, 1))


# -- code whose last result nobody reads -------------------------------------------------------------------------------


def _layers(count: int, inputs: int, outputs: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Conv1d(inputs, outputs, 3, padding=1) for _ in range(count)])


@case(2, 4, 16, removable=0.9)
def gated_layers_by_slices() -> nn.Module:
    """WaveNet (arXiv 1609.03499): the stream of the last layer leads nowhere."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x, skip = s.stem(x), 0
        for gates, onward, aside in zip(s.gates, s.onward, s.aside, strict=True):
            h = gates(x)
            z = h[:, : s.half].tanh() * h[:, s.half :].sigmoid()
            skip = skip + aside(z)
            x = x + onward(z)
        return s.out(F.relu(skip))

    return net(
        forward,
        half=6,
        stem=nn.Conv1d(4, 8, 1),
        gates=_layers(2, 8, 12),
        onward=_layers(2, 6, 8),
        aside=_layers(2, 6, 7),
        out=nn.Conv1d(7, 3, 1),
    )


@case(2, 4, 16, removable=0.9)
def one_layer_for_stream_and_skip() -> nn.Module:
    """WaveGlow (arXiv 1811.00002): the last layer makes no more than the skip."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)
        out = torch.zeros_like(x)
        for i in range(3):
            h = s.gates[i](x)
            both = s.both[i](h[:, :8].tanh() * h[:, 8:].sigmoid())
            if i < 2:
                x = x + both[:, :8]
                out = out + both[:, 8:]
            else:
                out = out + both
        return s.out(out)

    both = nn.ModuleList([nn.Conv1d(8, 16, 1), nn.Conv1d(8, 16, 1), nn.Conv1d(8, 8, 1)])
    return net(forward, stem=nn.Conv1d(4, 8, 1), gates=_layers(3, 8, 16), both=both, out=nn.Conv1d(8, 3, 1))


# -- tables that are read by number ------------------------------------------------------------------------------------

CLASSES = (torch.zeros(2, 3, 8, 8), torch.tensor([1, 3]))


class _ConditionalNorm(nn.Module):
    """Scale and shift of each class (BigGAN, arXiv 1809.11096)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.table = nn.Embedding(5, 2 * channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scale, shift = self.table(y).chunk(2, 1)
        return scale.view(-1, self.channels, 1, 1) * self.norm(x) + shift.view(-1, self.channels, 1, 1)


@case(inputs=CLASSES, removable=0.9)
def norms_for_each_class() -> nn.Module:
    def forward(s: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = s.first(s.a(x), y).relu()
        return s.head(s.second(s.b(x), y).relu())

    return net(forward, a=conv(3, 8), first=_ConditionalNorm(8), b=conv(8, 6), second=_ConditionalNorm(6), head=head(6))


@case(inputs=CLASSES, removable=0.9)
def classes_beside_time() -> nn.Module:
    """A denoiser adds what it knows of the time and the class (arXiv 2105.05233), and joins a map of the class."""

    def forward(s: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        known = s.time(x.mean((2, 3))) + s.kind(y)
        around = F.embedding(y, s.around)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        x = s.a(torch.cat([x, around], 1)).relu()
        return s.head(x + s.project(F.silu(known))[:, :, None, None])

    parts = {"time": nn.Linear(3, 12), "kind": nn.Embedding(5, 12), "project": nn.Linear(12, 8)}
    return net(forward, around=nn.Parameter(torch.randn(5, 4)), **parts, a=conv(7, 8), head=head(8))


@case(removable=0.9)
def positions_from_tables() -> nn.Module:
    """Two tables side by side, one for columns and one for rows of the image (arXiv 2005.12872)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        h, w = x.shape[-2:]
        across, down = s.across(torch.arange(w)), s.down(torch.arange(h))
        both = torch.cat([across[None].repeat(h, 1, 1), down[:, None].repeat(1, w, 1)], -1)
        tokens = (x + both.permute(2, 0, 1)[None]).flatten(2).transpose(1, 2)
        return s.out((tokens + s.place(torch.arange(h * w))).relu().mean(1))

    tables = {"across": nn.Embedding(50, 6), "down": nn.Embedding(50, 6), "place": nn.Embedding(64, 12)}
    return net(forward, a=cbr(3, 12), **tables, out=nn.Linear(12, 4))


@case(removable=0.3, exact=False, reason="sum over channels")
def quantised_vectors() -> nn.Module:
    """The nearest of eleven vectors (arXiv 1711.00937) stands for a pixel; distances mix its channels."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        z = s.a(x)
        flat = z.permute(0, 2, 3, 1).reshape(-1, 6)
        far = flat.pow(2).sum(1, keepdim=True) + s.code.weight.pow(2).sum(1) - 2 * flat @ s.code.weight.t()
        found = s.code(far.argmin(1)).view(2, 8, 8, 6).permute(0, 3, 1, 2)
        return s.head(z + (found - z).detach())

    return net(forward, a=cbr(3, 6), code=nn.Embedding(11, 6), head=head(6))


@case(inputs=torch.zeros(2, 9, dtype=torch.long), removable=0.9)
def words() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.out(s.b(s.a(s.table(x).transpose(1, 2)).relu()).relu().amax(2))

    layers = {"a": nn.Conv1d(8, 12, 3), "b": nn.Conv1d(12, 6, 3)}
    return net(forward, table=nn.Embedding(20, 8, padding_idx=0), **layers, out=nn.Linear(6, 3))


# -- parameters that are joined ----------------------------------------------------------------------------------------


@case(1, 3, 8, 8, removable=0.9, exact=False, reason="a layer norm over channels")
def detection_transformer() -> nn.Module:
    """The demonstration of DETR (arXiv 2005.12872): two learned tables side by side are the positions."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.narrow(s.backbone(x))
        h, w = x.shape[-2:]
        across, down = s.across[:w].unsqueeze(0).repeat(h, 1, 1), s.down[:h].unsqueeze(1).repeat(1, w, 1)
        places = torch.cat([across, down], dim=-1).flatten(0, 1).unsqueeze(0)
        asked = s.asked.unsqueeze(0).repeat(len(x), 1, 1)
        return s.kinds(s.transformer(places + 0.1 * x.flatten(2).permute(0, 2, 1), asked))

    def table(length: int, width: int) -> nn.Parameter:
        return nn.Parameter(torch.rand(length, width))

    return net(
        forward,
        backbone=cbr(3, 20),
        narrow=nn.Conv2d(20, 16, 1),
        transformer=nn.Transformer(16, 2, 1, 1, 24, dropout=0.0, batch_first=True),
        across=table(50, 8),
        down=table(50, 8),
        asked=table(7, 16),
        kinds=nn.Linear(16, 5),
    )


@case(removable=0.9)
def parameters_joined_along_channels_and_beside_them() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x) * torch.cat([s.first, s.rest], 1)
        tokens = x.flatten(2).transpose(1, 2) + torch.cat([s.one * 2, s.others], 1)
        return s.out((tokens + s.layer(torch.cat([s.short, s.long], 1))).relu().mean(1))

    shapes = {"first": (1, 4, 1, 1), "rest": (1, 8, 1, 1), "one": (1, 1, 12), "others": (1, 63, 12)}
    shapes |= {"short": (1, 10, 9), "long": (1, 54, 9)}
    parameters = {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    return net(forward, a=cbr(3, 12), **parameters, layer=nn.Linear(9, 12), out=nn.Linear(12, 4))


@case(removable=0.9, exact=False, reason="norm of the weight of")
def a_norm_of_joined_parameters() -> nn.Module:
    """It mixes the slices of every part."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        scale = torch.cat([s.first, s.rest], 1)
        return s.head(s.a(x) * (scale / scale.norm()))

    first, rest = (nn.Parameter(torch.randn(1, size, 1, 1)) for size in (4, 8))
    return net(forward, a=cbr(3, 12), first=first, rest=rest, head=head(12))


# -- states that recurrences begin with --------------------------------------------------------------------------------


@case(2, 2, 3, 6, 6, removable=0.9)
def a_convolutional_state_whose_sizes_have_a_name() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        sizes = (len(x), 12, *x.shape[-2:])
        state = cell = torch.zeros(sizes, dtype=x.dtype)
        for time in range(x.shape[1]):
            read = torch.cat([s.stem(x[:, time]).relu(), state], 1)
            i, f, o, new = s.gates(read).split(12, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * new.tanh()
            state = o.sigmoid() * cell.tanh()
        return s.head(state)

    return net(forward, stem=conv(3, 8), gates=conv(20, 48), head=head(12))


def _sequence(x: Tensor) -> Tensor:
    """`n x c x h x w` -> `n x w x c`."""
    return x.mean(2).transpose(1, 2)


@case(2, 1, 8, 10, removable=0.9)
def learned_first_states() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        _, state = s.rnn(_sequence(s.b(s.a(x)).relu()), s.first.expand(1, x.shape[0], 10).contiguous())
        other = s.second.expand(len(x), -1)
        for _ in range(2):
            other = s.cell(state[0], other)
        return s.out(other)

    first, second = nn.Parameter(torch.randn(1, 1, 10)), nn.Parameter(torch.randn(1, 7))
    layers = {"rnn": nn.GRU(6, 10, batch_first=True), "cell": nn.GRUCell(10, 7), "out": nn.Linear(7, 3)}
    return net(forward, a=cbr(1, 8), b=conv(8, 6), first=first, second=second, **layers)


@case(2, 1, 8, 10, removable=0.9)
def learned_first_states_after_a_branch() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = _sequence(s.a(x))
        if x.shape[1] > 4:
            x = x * 2
        state = s.first.expand(2, x.shape[0], 10).contiguous(), s.second.repeat(1, x.shape[0], 1)
        return s.out(s.rnn(x, state)[0])

    first, second = (nn.Parameter(torch.randn(2, 1, 10)) for _ in range(2))
    rnn = nn.LSTM(8, 10, batch_first=True, bidirectional=True)
    return net(forward, a=cbr(1, 8), first=first, second=second, rnn=rnn, out=nn.Linear(20, 3))


@case(2, 1, 8, 10, removable=0.9)
def first_states_at_a_written_size() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = _sequence(s.b(s.a(x)).relu())
        state = torch.zeros(2, x.size(0), s.hidden, dtype=x.dtype), torch.ones(2, x.size(0), s.hidden, dtype=x.dtype)
        y, _ = s.rnn(x, state)
        return s.out(s.over(y, y.new_zeros(len(y), 9).unsqueeze(0))[0])

    layers = {"rnn": nn.LSTM(6, 10, 2, batch_first=True), "over": nn.GRU(10, 9, batch_first=True)}
    return net(forward, a=cbr(1, 8), b=conv(8, 6), hidden=10, **layers, out=nn.Linear(9, 3))


@case(2, 1, 8, 10, removable=0.9)
def first_states_from_a_method() -> nn.Module:
    """Made beside ``forward``, read step by step, by code that no trace can stand for."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.rnn = 10, nn.GRU(8, 10)

        def first(self, batch: int, like: Tensor) -> Tensor:
            return torch.zeros(1, batch, self.hidden, dtype=like.dtype)

        def forward(self, x: Tensor) -> Tensor:
            state, found = self.first(x.size(1), x), []
            for step in range(x.shape[0]):
                y, state = self.rnn(x[step : step + 1], state)
                found.append(y)
            return torch.cat(found)

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.out(s.steps(s.a(x).mean(2).permute(2, 0, 1)))

    return net(forward, a=cbr(1, 8), steps=Steps(), out=nn.Linear(10, 3))


@case(2, 1, 8, 10, removable=0.5, reason="recurrent in rnn")
def a_first_state_that_holds_its_layer_alone() -> nn.Module:
    """Where a state cannot follow, the convolution before the layer may change all the same."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = _sequence(s.b(s.a(x)).relu())
        return s.out(s.rnn(x, torch.ones(1, x.size(0), 10, dtype=x.dtype).cumsum(-1))[0])

    return net(forward, a=cbr(1, 8), b=conv(8, 6), rnn=nn.GRU(6, 10, batch_first=True), out=nn.Linear(10, 3))


# -- weights on the left of a product, and views of parameters ---------------------------------------------------------


@case(removable=0.9)
def convolutions_by_unfold() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.first.view(12, -1) @ F.unfold(x, 3, padding=1) + s.shift.view(12, 1)
        x = s.second.view(10, -1) @ F.unfold(x.relu().view(-1, 12, 8, 8), 3, padding=1)
        return s.head(x.relu().view(-1, 10, 8, 8))

    weights = {"first": nn.Parameter(torch.randn(12, 3, 3, 3)), "second": nn.Parameter(torch.randn(10, 12, 3, 3))}
    return net(forward, **weights, shift=nn.Parameter(torch.randn(12)), head=head(10))


@case(removable=0.9)
def weights_before_what_they_read() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.weight @ s.a(x).flatten(2)
        x = torch.stack([s.layer.weight @ one + s.layer.bias[:, None] for one in x.relu()])
        x = torch.baddbmm(s.shift.view(1, -1, 1), s.last.expand(len(x), -1, -1), x.relu())
        return s.out(x.relu().mean(2))

    parameters = {"weight": (12, 6), "shift": (7,), "last": (1, 7, 10)}
    made = {name: nn.Parameter(torch.randn(shape)) for name, shape in parameters.items()}
    return net(forward, a=cbr(3, 6), **made, layer=nn.Linear(12, 10), out=nn.Linear(7, 4))


@case(removable=0.9)
def a_parameter_viewed_at_a_written_size() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        tokens = s.a(x).flatten(2).transpose(1, 2)
        return s.out((tokens * (s.scale * 2).view(1, 64, 12)).relu().mean(1))

    return net(forward, a=cbr(3, 12), scale=nn.Parameter(torch.randn(64, 12)), out=nn.Linear(12, 4))


# -- mixtures of experts -----------------------------------------------------------------------------------------------


def _experts(weigh: str) -> nn.Module:
    """Three experts for every image, side by side, and how much each of them counts (arXiv 1701.06538)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.stem(x)
        gate = s.gate(x.mean((2, 3))).softmax(-1)
        y = torch.stack([expert(x) for expert in s.experts], 1)
        y = torch.einsum("be,bechw->bchw", gate, y) if weigh else (gate[:, :, None, None, None] * y).sum(1)
        return s.head(F.relu(x + y) + s.last(y))

    experts = nn.ModuleList([nn.Sequential(conv(8, 5), nn.ReLU(), conv(5, 8)) for _ in range(3)])
    return net(forward, stem=cbr(3, 8), gate=nn.Linear(8, 3), experts=experts, last=conv(8, 8), head=head(8))


@case(removable=0.8, exact=True, reason="summed with weights whose number is fixed")
def experts_by_einsum() -> nn.Module:
    return _experts("einsum")


@case(removable=0.8, exact=True, reason="it weighs parts of another tensor")
def experts_by_a_sum() -> nn.Module:
    return _experts("")


@case(removable=0.9)
def stacked_and_laid_flat() -> nn.Module:
    """Stacked channels take turns; what is stacked has one shape."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = torch.stack([s.a(x), s.b(x)], 2).flatten(1, 2)
        return s.head(s.c(x))

    return net(forward, a=cbr(3, 8), b=cbr(3, 8), c=cbr(16, 6), head=head(6))
