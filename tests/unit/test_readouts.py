"""Read-outs see noise and lost diversity, and nothing in an image of one colour."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from rocm_core.errors import UserError
from rocm_core.evaluation import feature_diversity, high_frequency, measure_folder, pixel_diversity


def wave(cycles, size=64):
    """Gray images (1, 3, size, size) of a sine of so many cycles a pixel along x."""
    x = torch.arange(size) * (2 * torch.pi * cycles)
    return (0.5 + 0.4 * x.sin()).expand(1, 3, size, size)


def test_energy_counts_as_high_above_a_quarter_of_a_cycle_a_pixel():
    low, high = high_frequency(wave(0.1)), high_frequency(wave(0.4))
    assert low < 0.01 and high > 0.99
    half = wave(0.1) + wave(0.4) - 0.5
    assert high_frequency(half).item() == pytest.approx(0.5, abs=0.01)


def test_an_image_of_one_colour_has_no_high_frequencies():
    assert high_frequency(torch.full((2, 3, 32, 32), 0.3)).tolist() == [0, 0]


def test_white_noise_is_high_by_the_area_beyond_the_cut():
    noise = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    beyond = 1 - torch.pi * 0.25**2  # of all frequencies, a unit square
    assert high_frequency(noise).tolist() == pytest.approx([beyond] * 4, abs=0.03)


def test_one_picture_for_all_has_no_diversity():
    same = torch.rand(1, 12).expand(5, 12)
    assert pixel_diversity(same).tolist() == pytest.approx([0] * 5, abs=1e-7)
    assert feature_diversity(same).tolist() == pytest.approx([0] * 5, abs=1e-7)


def test_diversity_is_the_mean_distance_to_the_others():
    pixels = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    far, near = 1.0, 0.5**0.5  # root mean square over two pixels
    expected = [(far + near) / 2, (far + near) / 2, near]
    assert pixel_diversity(pixels).tolist() == pytest.approx(expected)
    right_angle = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    slanted = 1 - 0.5**0.5
    expected = [(1 + slanted) / 2, (1 + slanted) / 2, slanted]
    assert feature_diversity(right_angle).tolist() == pytest.approx(expected)


def write_samples(folder, sizes):
    rows = []
    for number, size in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"prompt_id": str(number), "text": "a", "file": f"{number}.png"})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_folder_is_measured_image_by_image(tmp_path):
    write_samples(tmp_path, [(32, 32)] * 3)
    measure_folder(tmp_path, tmp_path / "readouts.csv", None, "code")
    with open(tmp_path / "readouts.csv", newline="") as file:
        rows = {(row["prompt_id"], row["metric"]): row["value"] for row in csv.DictReader(file)}
    assert len(rows) == 3 * 2
    with Image.open(tmp_path / "1.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    assert float(rows["1", "high_frequency"]) == pytest.approx(high_frequency(pixels).item())
    manifest = json.loads((tmp_path / "readouts.manifest.json").read_text())
    assert manifest["code"] == "code" and manifest["settings"] == {"clip": None}
    assert [*manifest["outputs"]] == ["readouts.csv"]


def test_images_of_several_sizes_are_refused(tmp_path):
    write_samples(tmp_path, [(32, 32), (16, 32)])
    with pytest.raises(UserError, match="holds images of several sizes: remake them"):
        measure_folder(tmp_path, tmp_path / "readouts.csv", None, "code")
    assert not (tmp_path / "readouts.csv").exists()
