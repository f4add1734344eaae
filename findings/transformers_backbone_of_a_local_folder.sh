#!/usr/bin/env bash
# transformers: AutoBackbone does not load a backbone from the local folder it was saved to.
#
# transformers 5.24.0, huggingface_hub 2.4.0. A Dinov2Backbone is saved with save_pretrained; its
# own class loads the folder again, and so does AutoModel. AutoBackbone.from_pretrained(folder)
# takes the folder for the name of a repository of the hub and raises, though HF_HUB_OFFLINE is
# set. A good guess would have been that all Auto classes treat a folder alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 huggingface_hub==2.4.0 torch==2.13.0 numpy
cat > "$folder/load.py" <<'PYTHON'
from importlib.metadata import version
import sys

from transformers import AutoBackbone, AutoModel, Dinov2Backbone, Dinov2Config

folder = sys.argv[1]
config = Dinov2Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
    out_indices=[1, 2],
)
Dinov2Backbone(config).save_pretrained(folder)
found = {}
for loader in (Dinov2Backbone, AutoModel, AutoBackbone):
    try:
        found[loader.__name__] = type(loader.from_pretrained(folder)).__name__
    except Exception as error:
        found[loader.__name__] = f'raises {type(error).__name__}'
print(f'transformers {version("transformers")}: {found}')
same = found['Dinov2Backbone'] == 'Dinov2Backbone' and found['AutoModel'].startswith('Dinov2')
same = same and found['AutoBackbone'].startswith('raises')
raise SystemExit(0 if same else 'this has changed')
PYTHON
HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" "$folder/venv/bin/python" "$folder/load.py" "$folder/backbone"
