#!/usr/bin/env bash
# torch.onnx.export writes the paths of source files and lines of source code into the file.
#
# torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2. With dynamo=True, the default, each node of the graph
# has an entry pkg.torch.onnx.stack_trace in its metadata_props: the call stack with the full path
# of each source file on the machine that exported, the name of the user among them where the
# environment lies at home, and the text of the lines. Expected of a file that is to be given
# away: weights and operators. A file of few weights grows by a third and more. There is no option for
# it; who gives such a file away has to delete metadata_props of every node first.
# Ends with 0 while this is so, with 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6 onnx==1.23.2 onnxscript==0.7.2
mkdir "$folder/private_project"
cat > "$folder/private_project/network.py" <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        secret_of_the_author = self.layer(image)
        return secret_of_the_author.relu()


program = torch.onnx.export(Network().eval(), (torch.zeros(1, 3, 8, 8),), dynamo=True, verbose=False)
program.save('net.onnx')
content = open('net.onnx', 'rb').read()
model = program.model_proto
for node in model.graph.node:
    del node.metadata_props[:]
print(*(f'{one} {version(one)}' for one in ('torch', 'onnx', 'onnxscript')))
print(f'{len(content)} bytes, {len(model.SerializeToString())} without the notes of the nodes')
found = [text for text in (b'private_project/network.py', b'secret_of_the_author') if text in content]
print('in the file:', *(text.decode() for text in found))
sys.exit(len(found) != 2)
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/private_project/network.py" 2> /dev/null
