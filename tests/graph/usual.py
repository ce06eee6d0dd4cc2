"""Code as it stands in tutorials and projects: sizes written down, branches, loops, recurrent layers behind."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.mechanisms import case, cbr, conv, head, net

# -- sizes in code that asks for its mode, branches or loops -----------------------------------------------------------


@case(2, 1, 12, 12, removable=0.7)
def dropout_that_is_told_the_mode() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(s.b(F.relu(s.a(x))), 2)).view(-1, 54)
        return s.out(F.dropout(F.relu(s.fc(x)), training=s.training))

    return net(forward, a=conv(1, 8), b=nn.Conv2d(8, 6, 7), fc=nn.Linear(54, 10), out=nn.Linear(10, 4))


@case(2, 1, 8, 8, removable=0.7)
def draws_in_training_alone() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Any:
        h = s.encoder(x).view(-1, 8 * 2 * 2)
        mean, spread = s.mean(h), s.spread(h)
        z = mean + torch.randn_like(mean) * spread.exp() if s.training else mean
        return s.decoder(s.wide(z).view(-1, 8, 2, 2)), mean, spread

    down = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
    up = nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 1, 4, 2, 1))
    return net(forward, encoder=down, mean=nn.Linear(32, 5), spread=nn.Linear(32, 5), wide=nn.Linear(5, 32), decoder=up)


@case(2, 3, 7, 7, removable=0.9, exact=False, reason="by a number that follows from a width")
def windows_after_a_branch_on_the_size() -> nn.Module:
    """The image is padded where windows do not fit (arXiv 2103.14030); heads take the channels of another layer."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        missing = -h % 4
        if missing > 0:
            x = F.pad(x, (0, 0, 0, -w % 4, 0, missing))
        n = x.shape[1] // 4
        x = x.view(b, n, 4, n, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = s.qkv(x).reshape(x.shape[0], 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = ((q * max(1, c // 2) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = s.proj(y.transpose(1, 2).reshape(-1, 16, c))
        return s.out(y.mean(1).view(b, -1, 12).mean(1))

    return net(forward, a=cbr(3, 8), qkv=nn.Linear(8, 24), proj=nn.Linear(8, 12), out=nn.Linear(12, 4))


@case(2, 3, 8, 8, removable=0.9)
def sizes_that_are_unpacked() -> nn.Module:
    """Part of the sizes comes from another tensor, whose rank no trace knows; of some all do."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(s.a(x)).flatten(2).view(x.shape[0], 12, *x.shape[2:])
        z = F.relu(s.b(y)).flatten(2).view(*y.shape)
        size = z.shape
        z = torch.reshape(s.c(z).flatten(2), size)
        z = s.d(z).flatten(2).reshape(*z.shape[:2], *z.shape[2:])
        return s.out(F.relu(z).mean((2, 3)))

    convolutions = {"a": conv(3, 12), "b": conv(12, 12), "c": conv(12, 12), "d": conv(12, 12)}
    return net(forward, **convolutions, out=nn.Linear(12, 4))


# -- channels by their place -------------------------------------------------------------------------------------------


@case(removable=0.9)
def the_first_channels_are_doubled() -> nn.Module:
    """Nothing is coupled here, and all channels come out in their order; yet it matters which are the first four."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(torch.cat([x[:, :4] * 2, x[:, 4:]], 1))

    return net(forward, a=cbr(3, 12), head=head(12))


@case(removable=0.9)
def the_first_channels_are_written_over() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        x[:, :4] = x[:, :4].sigmoid()
        return s.head(x)

    return net(forward, a=conv(3, 12), head=head(12))


@case(removable=0.9)
def a_third_of_the_channels_is_moved_up() -> nn.Module:
    """Rolled by other numbers of pixels (arXiv 2107.08391): only elements move, yet it matters whose."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        thirds = torch.chunk(s.a(x), 3, 1)
        return s.head(s.b(torch.cat([torch.roll(part, i, 2) for i, part in enumerate(thirds)], 1)))

    return net(forward, a=cbr(3, 12), b=cbr(12, 6), head=head(6))


@case(removable=0.9)
def channels_shifted_in_place() -> nn.Module:
    """A quarter of the channels takes what is left of each pixel, another what is right (arXiv 1811.08383)."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        part, y = x.shape[1] // 4, torch.zeros_like(x)
        y[:, :part, :, :-1] = x[:, :part, :, 1:]
        y[:, part : 2 * part, :, 1:] = x[:, part : 2 * part, :, :-1]
        y[:, 2 * part :] = x[:, 2 * part :]
        return s.head(s.b(y))

    return net(forward, a=cbr(3, 12), b=cbr(12, 12), head=head(12))


@case(removable=0.9)
def the_first_channels_are_turned() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        return s.head(s.b(torch.cat([x[:, :5].transpose(2, 3), x[:, 5:]], 1)))

    return net(forward, a=cbr(3, 12), b=cbr(12, 6), head=head(6))


@case(removable=0.0, reason="another path")
def code_that_asks_for_a_width() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        if x.shape[1] == 12:
            x = x * 2
        return s.head(x)

    return net(forward, a=cbr(3, 12), head=head(12))


@case(2, 3, 8, 8, removable=0.0, exact=False, reason="a layer norm over")
def a_norm_over_a_written_shape() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.out(F.layer_norm(s.a(x).mean((2, 3)), (12,)))

    return net(forward, a=cbr(3, 12), out=nn.Linear(12, 4))


@case(2, 3, 8, 8, removable=0.9, exact=False, reason="product of two activations")
def sizes_of_another_tensor() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = s.b(x).flatten(2)
        return s.head(((y @ y.transpose(1, 2)).softmax(-1) @ y).view(x.shape))

    return net(forward, a=cbr(3, 12), b=conv(12, 12), head=head(12))


@case(2, 3, 8, 8, removable=0.9)
def windows_as_channels_and_back() -> nn.Module:
    """Pixels of a window beside each other, weighed and summed; then put back."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        y = F.unfold(x, 3, padding=1).view(x.shape[0], x.shape[1], 9, 64)
        x = (y * s.w).sum(2).view(x.shape)
        return s.head(F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2))

    return net(forward, a=cbr(3, 12), w=nn.Parameter(torch.randn(9, 1)), head=head(12))


@case(2, 3, 8, 8, removable=0.9)
def filters_in_the_frequency_domain() -> nn.Module:
    """A global filter, learned for every frequency and channel (arXiv 2107.00645), and a gated linear unit."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = F.glu(s.a(x), 1)
        y = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(s.w)
        return s.head(x + torch.fft.irfft2(y, s=(8, 8), norm="ortho"))

    return net(forward, a=cbr(3, 24), w=nn.Parameter(torch.randn(12, 8, 5, 2) * 0.1), head=head(12))


@case(removable=0.6)
def one_image_at_a_time() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x)
        found = [s.out(F.adaptive_avg_pool2d(x[i : i + 1], 2).view(1, 8 * 4)) for i in range(x.shape[0])]
        return torch.cat(found)

    return net(forward, a=cbr(3, 8), out=nn.Linear(32, 4))


@case(removable=0.7)
def split_by_a_size_in_a_loop() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x, state = s.a(x), None
        for _ in range(x.shape[0]):
            keep, new, out = torch.split(s.gates(x), s.size, dim=1)
            state = new if state is None else keep.sigmoid() * state + new.tanh()
            x = x + out * state
        return s.head(x)

    return net(forward, a=cbr(3, 8), gates=conv(8, 24), size=8, head=head(8))


class _Cell(nn.Module):
    """Convolutional long short-term memory (arXiv 1506.04214), as it is often written."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = conv(inputs + hidden, 4 * hidden)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        shown, kept = state
        i, f, o, new = torch.split(self.gates(torch.cat([x, shown], dim=1)), self.hidden, dim=1)
        kept = f.sigmoid() * kept + i.sigmoid() * new.tanh()
        return o.sigmoid() * kept.tanh(), kept

    def first(self, batch: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The state before the first image."""
        height, width = size
        like = self.gates.weight
        return (
            torch.zeros(batch, self.hidden, height, width, device=like.device, dtype=like.dtype),
            torch.zeros(batch, self.hidden, *size, device=like.device, dtype=like.dtype),
        )


@case(2, 3, 3, 6, 6, removable=0.8)
def conv_lstm() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        states = [cell.first(len(x), x.shape[-2:]) for cell in s.cells]
        for time in range(x.shape[1]):
            shown = s.stem(x[:, time]).relu()
            for number, cell in enumerate(s.cells):
                states[number] = cell(shown, states[number])
                shown = states[number][0]
        return s.out(shown.mean((2, 3)))

    return net(forward, stem=conv(3, 8), cells=nn.ModuleList([_Cell(8, 12), _Cell(12, 6)]), out=nn.Linear(6, 4))


@case(2, 3, 3, 6, 6, removable=0.8)
def conv_gru() -> nn.Module:
    """Gated recurrent units (arXiv 1511.06432); the first state is made where it is missing."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        state = None
        for time in range(x.shape[1]):
            y = s.stem(x[:, time]).relu()
            if state is None:
                state = y.new_zeros((len(y), 10, *y.shape[2:]))
            z, r = s.gates(torch.cat([y, state], 1)).sigmoid().chunk(2, 1)
            state = (1 - z) * state + z * s.new(torch.cat([y, r * state], 1)).tanh()
        return s.out(state).mean((2, 3))

    return net(forward, stem=conv(3, 8), gates=conv(18, 20), new=conv(18, 10), out=nn.Conv2d(10, 4, 1))


@case(2, 3, 6, 6, removable=0.8)
def made_state() -> nn.Module:
    """A state that code without branches makes."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.a(x).relu()
        state = torch.full((y.size(0), 6, y.size(2), y.size(3)), 0.5, dtype=y.dtype)
        for _ in range(2):
            state = s.b(torch.cat([y, state], 1)).tanh()
        return s.out(state.mean((2, 3)))

    return net(forward, a=conv(3, 8), b=conv(14, 6), out=nn.Linear(6, 4))


# -- weights made of others --------------------------------------------------------------------------------------------


@case(removable=0.9)
def a_sum_of_two_weights() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.head(F.conv2d(s.a(x), s.b.weight - s.c.weight, s.b.bias, padding=1).relu())

    return net(forward, a=cbr(3, 8), b=conv(8, 6), c=conv(8, 6, bias=False), head=head(6))


@case(2, 4, 20, removable=0.8, exact=False, reason="a weight norm")
def weight_norm() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y = s.b(s.a(x)[..., :-2].relu())[..., :-2].relu()
        return s.out((y + s.shortcut(x)).relu().mean(-1))

    normed = torch.nn.utils.parametrizations.weight_norm
    return net(
        forward,
        a=normed(nn.Conv1d(4, 8, 3, padding=2)),
        b=normed(nn.Conv1d(8, 6, 3, padding=2)),
        shortcut=nn.Conv1d(4, 6, 1),
        out=nn.Linear(6, 3),
    )


@case(2, 3, 8, 8, removable=0.8)
def spectral_norm() -> nn.Module:
    """Every kind of layer with its largest singular value at one (arXiv 1802.05957), as in discriminators."""

    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.up(s.first(x).relu())
        x = x + s.point(s.depthwise(x).relu())
        return s.out(s.line(x.relu().mean(2)).relu().sum(2))

    normed = torch.nn.utils.parametrizations.spectral_norm
    return net(
        forward,
        first=normed(conv(3, 8)),
        up=normed(nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)),
        depthwise=normed(conv(6, 6, groups=6)),
        point=normed(nn.Conv2d(6, 6, 1)),
        line=normed(nn.Conv1d(6, 8, 3)),
        out=normed(nn.Linear(8, 3)),
    )


# -- recurrent layers --------------------------------------------------------------------------------------------------


def _columns(x: Tensor) -> Tensor:
    """`n x c x h x w` -> `w x n x c`."""
    return x.mean(2).permute(2, 0, 1)


@case(2, 1, 8, 10, removable=0.8)
def lstm_over_columns() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        y, _ = s.rnn(_columns(s.a(x)))
        t, b, c = y.shape
        return s.out(y.reshape(t * b, c)).view(t, b, -1)

    return net(forward, a=cbr(1, 8), rnn=nn.LSTM(8, 6, num_layers=2, bidirectional=True), out=nn.Linear(12, 5))


@case(2, 1, 8, 10, removable=0.8)
def gru_that_starts_from_what_an_lstm_found() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        x = s.a(x).mean(2).transpose(1, 2)
        _, (state, _) = s.encoder(x)
        y, _ = s.decoder(x, s.between(torch.cat([state[-2], state[-1]], 1)).tanh()[None])
        return s.out(y)

    return net(
        forward,
        a=cbr(1, 8),
        encoder=nn.LSTM(8, 5, batch_first=True, bidirectional=True),
        between=nn.Linear(10, 7),
        decoder=nn.GRU(8, 7, batch_first=True),
        out=nn.Linear(7, 4),
    )


@case(2, 3, 3, 8, 8, removable=0.8)
def cell_over_frames() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = s.cell(s.a(x[:, t]).mean((2, 3)), state)
        return s.out(state[0])

    return net(forward, a=cbr(3, 8), cell=nn.LSTMCell(8, 6), out=nn.Linear(6, 3))


@case(inputs=(torch.zeros(3, 4, 9), torch.tensor([9, 5, 7])), removable=0.8)
def packed_sequences() -> nn.Module:
    def forward(s: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
        x = s.a(x).relu().transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = s.rnn(packed)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        return s.out(y.mean(1) + state[-1])

    return net(forward, a=nn.Conv1d(4, 8, 3, padding=1), rnn=nn.RNN(8, 6, batch_first=True), out=nn.Linear(6, 3))


@case(2, 1, 8, 10, removable=0.4, reason="projected states")
def projected_states() -> nn.Module:
    def forward(s: nn.Module, x: Tensor) -> Tensor:
        return s.out(s.rnn(_columns(s.b(s.a(x))))[0])

    return net(forward, a=cbr(1, 8), b=cbr(8, 6), rnn=nn.LSTM(6, 8, proj_size=4), out=nn.Linear(4, 3))
