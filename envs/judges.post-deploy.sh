#!/usr/bin/env bash
# Installs the published scorers. hpsv2's wheel lacks CLIP's vocabulary, without which it cannot be
# imported; openai-clip, which image-reward imports without declaring it, contains the file.
set -euo pipefail
python -m pip install --quiet --require-hashes --no-deps --no-build-isolation --requirement /dev/stdin <<'END'
hpsv2==1.2.0 \
    --hash=sha256:3ee638b06847bef24e1de43d0b5e3890a4a850034b4bf618e4bb3e78e2d806a1 \
    --hash=sha256:ed85d0f1847512139fb538b6bc4c4ce3a0c037248fa1210ae72838916c6c6eb7
image-reward==1.5 \
    --hash=sha256:b4917a680c3caa68a1ce3847cebab3ae6d5b4c409d7f8804f537b9d42662cf12 \
    --hash=sha256:e5765aeeba56cd37bee486a645b46c1687176e7ff6876b72b9a3324b34c030aa
END
python - <<'END'
import importlib.util, pathlib, shutil

clip, hpsv2 = (pathlib.Path(importlib.util.find_spec(n).origin).parent for n in ("clip", "hpsv2"))
name = "bpe_simple_vocab_16e6.txt.gz"
shutil.copy(clip / name, hpsv2 / "src" / "open_clip" / name)
END
