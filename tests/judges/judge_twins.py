"""Run in the judges' environment: the published scorers on tiny twins of their weights."""

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

from rocm_core import judges
from rocm_core.judges import judge_folder


def main() -> None:
    """Arguments: the tiny OpenCLIP configuration (JSON), the judges (JSON), samples, output."""
    config, chosen, samples, output = sys.argv[1:]
    sys.modules["turtle"] = mock.MagicMock()
    from hpsv2.src.open_clip import add_model_config
    from ImageReward.models.BLIP import blip_pretrain, vit

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny-twin.json"
        path.write_text(config)
        add_model_config(path)
    judges.ARCHITECTURE = "tiny-twin"

    def create_vit(_: str, size: int, *rest: object) -> tuple:
        width = 128
        return vit.VisionTransformer(
            size, 16, embed_dim=width, depth=2, num_heads=2, mlp_ratio=2
        ), width

    blip_pretrain.create_vit = create_vit
    judge_folder(json.loads(chosen), Path(samples), Path(output))


main()
