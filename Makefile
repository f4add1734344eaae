# Every command a person needs, each self-contained: it installs what it lacks into .venv first.
# Needs a Linux machine with make, git and Python 3.10 to 3.14 (with venv).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3.14 python3.10 \
            python3))
VENV   ?= .venv
# The exact versions to install; constraints-oldest.txt has the oldest that setup.py claims.
CONSTRAINTS ?= constraints.txt
# The wheels of the ROS client library: jazzy (as in CONSTRAINTS) or kilted.
ROS_WHEELS  ?= jazzy
# Another build of torch: TORCH=torch==2.13.0+cu130 TORCH_INDEX=<the index that pytorch.org names>
TORCH       ?= $(firstword $(shell grep -o '^torch==[^;]*' $(CONSTRAINTS)))
TORCH_INDEX ?=
OUTPUT ?= demo_out
# Files of tests that run side by side; each of them has up to three processes of its own.
WORKERS ?= 2

prefix  := $(abspath $(VENV))
bin     := $(prefix)/bin
pip     := $(bin)/python -m pip install --quiet --constraint $(prefix)/constraints.txt
ros     := $(if $(filter jazzy,$(ROS_WHEELS)),ros,ros-$(ROS_WHEELS))
extras  := $(ros),openvino,onnxruntime,numba,transformers,test,lint
sources := $(shell find psd_depth_ros launch config resource scripts weights -type f \
             -not -name '*.pyc' 2>/dev/null) package.xml README.md setup.py
say      = @printf '\033[1m== %s\033[0m\n'

# The wheels of ROS set no AMENT_PREFIX_PATH. A sourced ROS distribution would mix its Python
# packages with those of $(VENV): these commands don't see it (there, build with colcon).
export AMENT_PREFIX_PATH := $(prefix)
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export NO_MKDOCS_2_WARNING := 1
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifdef ROS_DISTRO
unexport LD_LIBRARY_PATH ROS_DISTRO RMW_IMPLEMENTATION
endif

.PHONY: help demo test test-oldest lint format docs bench install clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 13
	@echo
	@echo 'make demo BAG=path | VIDEO=path   the demo on your own recording; the lens of a video:'
	@echo '          CAMERA=camera.yaml | FOV=degrees'
	@echo '          CHECKPOINT=name|path             with other weights (weights/README.md)'
	@echo 'make ... PYTHON=python3.12 VENV=.venv-3.12      another Python, another environment'
	@echo 'make ... ROS_WHEELS=kilted VENV=.venv-kilted    the client library of ROS 2 Kilted'
	@echo 'make ... TORCH=torch==VERSION TORCH_INDEX=URL   another build of torch (CUDA, CPU)'

demo: install  ## camera in, depth and cloud out, over real topics: demo_out/preview.png
	$(say) 'demo: replay_node and depth_node in two processes, recorded into $(OUTPUT)/'
	$(bin)/psd-depth demo --output '$(OUTPUT)' \
	  $(if $(BAG),--bag '$(BAG)') $(if $(VIDEO),--video '$(VIDEO)') \
	  $(if $(CAMERA),--camera '$(CAMERA)') $(if $(FOV),--fov '$(FOV)') \
	  $(if $(CHECKPOINT),--checkpoint '$(CHECKPOINT)')

test: install  ## all tests, with the ROS nodes in processes of their own
	$(say) 'test: pytest'
	$(bin)/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder $(TESTS)

test-oldest:  ## all tests with the oldest versions that setup.py claims, in .venv-oldest
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

lint: install  ## ruff (lint and format), mypy and codespell
	$(say) 'lint: ruff check, ruff format --check, mypy, codespell'
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/codespell

format: install  ## rewrite the code the way lint wants it
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

docs: $(prefix)/.docs-installed  ## the documentation site, site/index.html; a broken link fails
	$(say) 'docs: mkdocs build, written to site/'
	$(bin)/mkdocs build --quiet --strict
	$(bin)/python tools/check_site.py site

bench: install  ## measure this machine: network, each step of a frame, end to end
	$(say) 'bench: written to bench_out/'
	$(bin)/psd-depth bench --output bench_out

install: $(prefix)/.package-installed  ## the package and all it needs, into .venv

clean:  ## remove .venv and everything that was built or written by these commands
	rm -rf $(VENV) .venv-oldest build install log demo_out bench_out site *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache

$(bin)/python:
	$(say) 'install: a new environment in $(VENV) with $(PYTHON)'
	@$(PYTHON) -c 'import sys; \
	  sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14) and \
	  f"Python 3.10 to 3.14 is needed, {sys.executable} is {sys.version.split()[0]}: " \
	  "name another with PYTHON=")'
	$(PYTHON) -m venv $(prefix)

# What the package needs, at the versions of CONSTRAINTS.
$(prefix)/.requirements-installed: setup.py $(CONSTRAINTS) | $(bin)/python
	$(say) 'install: torch, then the requirements of psd_depth_ros[$(extras)] (some minutes)'
	@grep -v $(if $(filter jazzy,$(ROS_WHEELS)),,-e '^ros-') -e '^torch==' $(CONSTRAINTS) \
	  > $(prefix)/constraints.txt; echo '$(TORCH)' >> $(prefix)/constraints.txt
	$(pip) setuptools
	$(pip) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') torch
	$(pip) --no-build-isolation '.[$(extras)]'
	@touch $@

# What builds the site: apart from the other requirements, which need not wait for it.
$(prefix)/.docs-installed: setup.py $(CONSTRAINTS) | $(prefix)/.package-installed
	$(say) 'install: the requirements of psd_depth_ros[docs]'
	$(pip) --no-build-isolation '.[docs]'
	@rm -rf build/lib build/bdist.*; rmdir build 2>/dev/null || true
	@touch $(prefix)/.package-installed $@

# The package itself, again whenever one of its files is newer: not editable, because an editable
# install has no share/ and no lib/ for ROS. It takes two seconds.
$(prefix)/.package-installed: $(prefix)/.requirements-installed $(sources)
	$(say) 'install: psd_depth_ros'
	@rm -rf build/lib build/bdist.*
	$(bin)/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build/lib build/bdist.*; rmdir build 2>/dev/null || true
	@touch $@
