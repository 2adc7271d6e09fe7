# On a fresh machine with make and Python 3.11 or newer: `make demo` trains a tiny model, `make test` runs the tests.
# Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# It compares voices (tools.prepare_data check). With its dependencies, pip would compile webrtcvad, which has wheels of the
# same module, and install a backport of typing; all others are in requirements.txt.
SPEAKER_MODEL := "resemblyzer>=0.1.4,<0.2" "webrtcvad-wheels>=2.0.14,<3"

DEMO := demo
DEMO_BUILT := $(DEMO)/.built
DEMO_RUN := $(DEMO)/run
DEMO_EVALUATION := $(DEMO)/evaluation
# The model has three layers of random weights, and it must memorise 16 clips to the last code. So the rank is half its
# width, everything that can have an adapter has one, and the learning rate is high.
DEMO_SETTINGS := --max_steps 200 --warmup_steps 10 --learning_rate 5e-3 \
	--lora_rank 64 --lora_alpha 128 --lora_targets attention audio_mlp text_mlp heads audio_embeddings \
	--logging_steps 10 --eval_steps 20 --save_steps 100

.PHONY: help demo test test-slow test-gpu lint clean

help:
	@echo "make demo       build a tiny model and Arabic clips, train an adapter on them, plot the loss, evaluate"
	@echo "make test       all tests but the slow ones and those for a GPU"
	@echo "make test-slow  the slow tests"
	@echo "make test-gpu   the tests that need a GPU"
	@echo "make lint       ruff: rules and formatting"
	@echo "make clean      remove the demo and the tools' caches; .venv stays"

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(VENV_PYTHON) -m pip --version > /dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
			echo "error: $(PYTHON) is not Python 3.11 or newer (`$(PYTHON) --version 2>&1`)." >&2; \
			echo "If another one is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
			exit 1; \
		}; \
		echo "making $(VENV) with `$(PYTHON) --version 2>&1`"; \
		$(PYTHON) -m venv $(VENV); \
	}
	@echo "installing requirements into $(VENV): several minutes if torch has to be downloaded"
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps $(SPEAKER_MODEL)
	@touch $@

$(DEMO_BUILT): tools/make_demo.py $(wildcard tools/demo/*.py) | $(INSTALLED)
	@echo "building the demo in $(DEMO)/: half a minute"
	@rm -rf $(DEMO)
	@$(VENV_PYTHON) -m tools.make_demo --output_dir $(DEMO)
	@touch $@

# One thread: with more, so small a model is hardly faster, and many times slower where other programs want the cores.
demo: $(DEMO_BUILT)
	@echo "training an adapter: under a minute"
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) arabic_voice_cloning_distributed_trainer.py \
		--data_path $(DEMO)/train_chatml_samples.json --eval_data_path $(DEMO)/val_chatml_samples.json --sample_every 100 \
		--model_path $(DEMO)/model --audio_tokenizer_path $(DEMO)/audio_tokenizer \
		--code_cache_dir $(DEMO)/code_cache --output_dir $(DEMO_RUN) $(DEMO_SETTINGS)
	@echo "metrics: $(DEMO_RUN)/metrics.jsonl"
	@$(VENV_PYTHON) -m tools.plot_metrics $(DEMO_RUN)
	@echo "The training loss falls: the model memorises these clips. From random weights it cannot learn to speak,"
	@echo "so the evaluation loss, on voices and sentences it was not given, soon rises; the best checkpoint is kept."
	@echo "evaluating the base and the newest checkpoint on the training clips: half a minute"
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m tools.evaluate --model_path $(DEMO)/model \
		--audio_tokenizer_path $(DEMO)/audio_tokenizer --device cpu --greedy \
		--adapter "`ls -d $(DEMO_RUN)/checkpoint-* | tail -n 1`" \
		--test_set $(DEMO)/train_chatml_samples.json --output_dir $(DEMO_EVALUATION) \
		--title "The demo's base and adapter on the clips that the adapter has memorised"
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m tools.demo_ending $(DEMO)

test: $(INSTALLED)
	@$(VENV_PYTHON) -m pytest -m "not slow and not gpu"

test-slow: $(INSTALLED)
	@$(VENV_PYTHON) -m pytest -m slow

test-gpu: $(INSTALLED)
	@$(VENV_PYTHON) -m pytest -m gpu

lint: $(INSTALLED)
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
