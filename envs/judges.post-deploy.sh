#!/usr/bin/env bash
# Installs the published scorers. hpsv2's wheel lacks CLIP's vocabulary, without which it cannot be
# imported; openai-clip, which image-reward imports without declaring it, contains the file.
set -euo pipefail
python -m pip install --quiet --no-deps hpsv2==1.2.0 image-reward==1.5
python - <<'END'
import importlib.util, pathlib, shutil

clip, hpsv2 = (pathlib.Path(importlib.util.find_spec(n).origin).parent for n in ("clip", "hpsv2"))
name = "bpe_simple_vocab_16e6.txt.gz"
shutil.copy(clip / name, hpsv2 / "src" / "open_clip" / name)
END
