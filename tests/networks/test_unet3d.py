"""The published network: sizes, names, order of concatenation, and norm modes. Facts: METHOD.md sections 2 and 3.1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semgen_platform.errors import ConfigError
from semgen_platform.networks.heads import PatternHead
from semgen_platform.networks.norm import CropNorm, NormMode
from semgen_platform.networks.unet3d import SemanticGenesisNet, UNet3D

WIDTH = 4  # small: the arithmetic of shapes and names is the same at every width


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def crops_NCZYX() -> torch.Tensor:
    return torch.rand(3, 1, 16, 32, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> SemanticGenesisNet:
    torch.manual_seed(1)
    return SemanticGenesisNet(classes=7, width=WIDTH, norm="running")


def test_parameter_counts_at_the_published_width_are_those_of_the_publication() -> None:
    with torch.device("meta"):
        unet, full = UNet3D(), SemanticGenesisNet(classes=44)
    blocks = [parameters(b) for b in (unet.down_tr64, unet.down_tr128, unet.down_tr256, unet.down_tr512)]
    assert blocks == [56_448, 332_352, 1_328_256, 5_310_720]
    assert [parameters(b) for b in (unet.up_tr256, unet.up_tr128, unet.up_tr64)] == [9_177_088, 2_294_784, 573_952]
    assert parameters(unet.out_tr) == 65
    assert parameters(unet) == 19_073_665
    assert parameters(full) == 33_277_613
    assert parameters(full.clc_out) == 14_158_848 + 1025 * 44


def test_head_grows_by_1025_parameters_a_pattern_at_the_published_width() -> None:
    with torch.device("meta"):
        assert parameters(PatternHead(32, 50)) - parameters(PatternHead(32, 44)) == 6 * 1025


def test_state_dict_has_the_names_and_shapes_of_published_checkpoints() -> None:
    with torch.device("meta"):
        state = SemanticGenesisNet(classes=44).state_dict()
    assert len(state) == 115
    assert sum(not name.startswith("clc_out.") for name in state) == 106
    expected = {
        "down_tr64.ops.0.conv1.weight": (32, 1, 3, 3, 3),
        "down_tr64.ops.1.conv1.weight": (64, 32, 3, 3, 3),
        "down_tr512.ops.1.bn1.running_var": (512,),
        "down_tr512.ops.1.bn1.num_batches_tracked": (),
        "up_tr256.up_conv.weight": (512, 512, 2, 2, 2),
        "up_tr256.ops.0.conv1.weight": (256, 768, 3, 3, 3),
        "up_tr128.ops.0.conv1.weight": (128, 384, 3, 3, 3),
        "up_tr64.ops.0.conv1.weight": (64, 192, 3, 3, 3),
        "out_tr.final_conv.weight": (1, 64, 1, 1, 1),
        "clc_out.conv1.weight": (1024, 512, 3, 3, 3),
        "clc_out.bn1.weight": (1024,),
        "clc_out.fc1.weight": (44, 1024),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


def test_outputs_have_the_documented_shapes_and_ranges(network: SemanticGenesisNet, crops_NCZYX: torch.Tensor) -> None:
    logits, restored = network(crops_NCZYX)
    assert logits.shape == (3, 7)
    assert restored.shape == crops_NCZYX.shape
    assert restored.min() > 0
    assert restored.max() < 1
    assert network.encode(crops_NCZYX).shape == (3, 16 * WIDTH, 2, 4, 3)
    torch.testing.assert_close(network.embed(crops_NCZYX), network.encode(crops_NCZYX).flatten(2).mean(2))


def test_a_size_that_eight_does_not_divide_is_refused_by_its_shape(network: SemanticGenesisNet) -> None:
    with pytest.raises(ConfigError, match=r"\(1, 1, 16, 32, 20\).*divisible by 8"):
        network.encode(torch.zeros(1, 1, 16, 32, 20))


def test_decoder_takes_the_upsampled_channels_first_and_the_skip_second(network: SemanticGenesisNet) -> None:
    network.eval()
    block = network.up_tr64
    with torch.no_grad():
        dict(block.named_parameters())["ops.0.conv1.weight"][:, : 4 * WIDTH] = 0  # blind to what comes from below
        skip = torch.rand(1, 2 * WIDTH, 8, 8, 8)
        below = torch.rand(1, 4 * WIDTH, 4, 4, 4)
        torch.testing.assert_close(block(below, skip), block(2 * below, skip))
        assert not torch.allclose(block(below, skip), block(below, 2 * skip))


def test_every_voxel_axis_is_halved_alike_so_z_may_be_any_axis(crops_NCZYX: torch.Tensor) -> None:
    """Transposing kernels and input transposes the output: what the importer of (x, y, z) weights relies on."""
    torch.manual_seed(2)
    network = UNet3D(WIDTH, "instance")
    mirrored = UNet3D(WIDTH, "instance")
    state = {k: v.permute(0, 1, 4, 3, 2) if v.ndim == 5 else v for k, v in network.state_dict().items()}
    mirrored.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(
            mirrored(crops_NCZYX.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2), network(crops_NCZYX)
        )


@pytest.mark.parametrize("norm", ["batch", "running", "instance"])
def test_one_state_dict_serves_all_norm_modes(
    network: SemanticGenesisNet, norm: NormMode, crops_NCZYX: torch.Tensor
) -> None:
    other = SemanticGenesisNet(classes=7, width=WIDTH, norm=norm)
    assert other.load_state_dict(network.state_dict(), strict=True).missing_keys == []
    assert torch.equal(
        other.state_dict()["up_tr64.ops.0.conv1.weight"], network.state_dict()["up_tr64.ops.0.conv1.weight"]
    )
    assert torch.isfinite(other.embed(crops_NCZYX)).all()


def random_norm(mode: NormMode) -> CropNorm:
    norm = CropNorm(2, mode)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 3.0]))
    return norm


def test_batch_norm_mode_uses_the_batch_in_evaluation_and_moves_its_averages_without_counting() -> None:
    norm = random_norm("batch").eval()
    x = torch.randn(2, 2, 3, 3, 3, generator=torch.Generator().manual_seed(3)) * 4 + 1
    with torch.no_grad():
        out = norm(x)
    mean, variance = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), unbiased=False)
    by_hand = (x - mean.view(1, 2, 1, 1, 1)) / (variance.view(1, 2, 1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(out, by_hand * norm.weight.view(1, 2, 1, 1, 1) + norm.bias.view(1, 2, 1, 1, 1))
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    assert norm.num_batches_tracked == 0


def test_instance_mode_equals_batch_mode_with_a_batch_of_one() -> None:
    x = torch.randn(4, 2, 3, 4, 5, generator=torch.Generator().manual_seed(4))
    singles = torch.cat([random_norm("batch")(one[None]) for one in x])
    torch.testing.assert_close(random_norm("instance")(x), singles)


@pytest.mark.parametrize(("norm", "independent"), [("batch", False), ("running", True), ("instance", True)])
def test_only_batch_mode_lets_a_crop_answer_by_its_batch(
    norm: NormMode, independent: bool, crops_NCZYX: torch.Tensor
) -> None:
    torch.manual_seed(5)
    network = UNet3D(WIDTH, norm).eval()
    with torch.no_grad():
        alone, together = network.embed(crops_NCZYX[:1]), network.embed(crops_NCZYX)[:1]
    assert torch.allclose(alone, together, atol=1e-5) == independent


def test_an_unknown_norm_and_an_odd_width_are_refused_by_value() -> None:
    with pytest.raises(ConfigError, match=r"norm is 'layer'; give one of batch, running, instance"):
        UNet3D(WIDTH, "layer")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="width is 3"):
        UNet3D(3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand")
def test_gpu_gives_the_outputs_of_the_cpu(network: SemanticGenesisNet, crops_NCZYX: torch.Tensor) -> None:
    network.eval()
    torch.backends.cudnn.allow_tf32 = False  # TF32 keeps 10 bits; float32 sums in another order stay within 1e-4
    with torch.no_grad():
        on_cpu = network(crops_NCZYX)
        on_gpu = network.cuda()(crops_NCZYX.cuda())
    for cpu, gpu in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, atol=1e-4, rtol=1e-4)
