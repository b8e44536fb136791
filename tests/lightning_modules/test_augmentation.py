import numpy as np
import pytest
import torch

from lightning_modules.augmentation import Warp, draw_warp, warp_picture

SIZE = 64
STILL = (0.0, 0.0)


def warped(picture, zoom=1.0, angle=0.0, shift=STILL, border="black"):
    return warp_picture(picture, Warp(zoom, angle, shift), border=border)


def noise_picture():
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def centroid(mask):
    """(x, y) of the mass of `mask` `[1, H, W]`, in pixels from the centre."""
    offsets = torch.arange(SIZE) - (SIZE - 1) / 2
    mass = mask[0] / mask.sum()
    return (mass.sum(0) @ offsets).item(), (mass.sum(1) @ offsets).item()


@pytest.mark.parametrize("border", ["black", "reflect"])
def test_nothing_to_do_is_the_identity(border):
    picture = noise_picture()
    result, valid = warped(picture, border=border)
    torch.testing.assert_close(result, picture, atol=1e-4, rtol=0)
    torch.testing.assert_close(valid, torch.ones(1, SIZE, SIZE), atol=1e-4, rtol=0)


def test_half_a_turn_flips_both_axes():
    picture = noise_picture()
    torch.testing.assert_close(warped(picture, angle=180)[0], picture.flip(1, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("warp", [(2, 0, STILL), (3, 15, (0.2, -0.3)), (1.5, -10, (0.1, 0.1))])
def test_the_freed_border_is_black_and_invalid(warp):
    result, valid = warped(noise_picture() + 0.5, *warp)
    outside = valid == 0
    assert outside.float().mean() > 0.3
    assert result[:, outside[0]].abs().max() == 0
    assert result[:, (valid == 1)[0]].min() > 0.4
    assert valid.min() >= 0 and valid.max() <= 1 + 1e-6


@pytest.mark.parametrize("angle", [0, 15, -7])
@pytest.mark.parametrize(("zoom", "area"), [(2, 1 / 4), (3, 1 / 9)])
def test_zoom_covers_its_share_of_the_canvas(zoom, area, angle):
    assert warped(torch.ones(3, SIZE, SIZE), zoom, angle)[1].mean().item() == pytest.approx(area, abs=0.01)


@pytest.mark.parametrize("angle", [0, 12])
@pytest.mark.parametrize("shift", [(0.25, 0), (0, -0.25), (0.125, 0.2), STILL])
def test_shift_moves_the_centre_in_half_canvas_widths(shift, angle):
    result, valid = warped(torch.ones(1, SIZE, SIZE), 2, angle, shift)
    for mask in (result, valid):
        assert centroid(mask) == pytest.approx([each * SIZE / 2 for each in shift], abs=0.05)


def test_zoom_shows_the_whole_picture():
    # A white quarter stays one quarter, in its corner of the shrunken picture.
    picture = torch.zeros(1, SIZE, SIZE)
    picture[:, : SIZE // 2, : SIZE // 2] = 1
    result, _ = warped(picture, 2)
    assert result.mean().item() == pytest.approx(1 / 16, abs=0.005)
    assert centroid(result) == pytest.approx([-SIZE / 8, -SIZE / 8], abs=0.2)


@pytest.mark.parametrize("warp", [(1.0, 0, STILL), (1.7, 11, (0.2, 0.1)), (3, -15, (-0.4, 0.5))])
def test_a_constant_picture_stays_constant(warp):
    picture = torch.tensor([10.0, 100.0, 250.0])[:, None, None].expand(3, SIZE, SIZE)
    result, valid = warped(picture, *warp)
    inside = (valid > 1 - 1e-6)[0]
    assert inside.float().mean() > 0.05
    torch.testing.assert_close(result[:, inside], picture[:, inside], atol=1e-2, rtol=0)
    # Reflected, the canvas is full; its valid mask still tells what was there.
    reflected, same = warped(picture, *warp, border="reflect")
    torch.testing.assert_close(reflected, picture, atol=1e-2, rtol=0)
    torch.testing.assert_close(same, valid)


def test_reflect_mirrors_at_the_edge():
    result, _ = warped(noise_picture(), 2, border="reflect")
    left, inside = result[:, :, : SIZE // 4], result[:, :, SIZE // 4 : SIZE // 2]
    torch.testing.assert_close(left, inside.flip(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("max_zoom", "degrees", "max_shift"), [(3, 15, 0.08), (3, 15, 1.0), (1, 0, 0.5)])
def test_draws_stay_within_their_bounds(max_zoom, degrees, max_shift):
    rng = np.random.default_rng(0)
    warps = [draw_warp(rng, max_zoom=max_zoom, degrees=degrees, max_shift=max_shift) for _ in range(500)]
    assert all(1 <= warp.zoom <= max_zoom and abs(warp.angle) <= degrees for warp in warps)
    assert all(abs(each) <= min(max_shift, 1 - 1 / warp.zoom) for warp in warps for each in warp.shift)
    assert max(warp.zoom for warp in warps) >= 0.98 * max_zoom
    assert {np.sign(warp.angle) for warp in warps} == ({-1, 1} if degrees else {0})
