"""ACE-Align as published (paper, section 4.1): Llama-3.1-8B-Instruct on the World Values Survey.

    python -m ace_jax.train --config configs/ace.py --workdir runs/ace

Any field can be set on the command line, for example --config.optimizer.learning_rate=1e-4.
The paper leaves out the LoRA targets, the batch and the weight decay: these are the released
code's (q, k, v and o; 8 pairs; 0.01). It trained on two GPUs; `mesh.data = -1` takes all there are.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ace_jax.recipe import ROW_LENGTHS


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.max_steps = placeholder(int)  # None: all epochs of all stages

    config.model = ConfigDict()
    config.model.path = "meta-llama/Llama-3.1-8B-Instruct"
    config.model.dtype = "bfloat16"  # of the frozen base
    config.model.quantization = "none"  # of its kernels; "int8" or "nf4" for less memory
    config.model.attention = "xla"  # "pallas": one kernel, for GPUs; its speed is not measured yet
    config.model.remat = "matmuls"  # kept for the backward pass; "none" keeps all, "full" least

    config.data = ConfigDict()
    config.data.path = "data/wvs7"  # made by: python -m ace_jax.prepare --output data/wvs7 ...
    config.data.questions = ()  # ids of the questions to use; empty: all
    config.data.granularity = placeholder(int)  # attributes that cells trained on name; None: all
    config.data.shuffle = True
    config.data.holdout = "question:0.2"  # what training must not see: ace_jax/survey/split.py
    config.data.min_n = 10  # respondents that both cells of a training pair have at least

    config.prompt = ConfigDict()
    config.prompt.template = "persona_first"
    config.prompt.option_style = "number"  # 1..K; or "letter", "text", "code" (the survey's own)
    config.prompt.option_order = "as_given"  # or "reversed", or "both", drawn a context and epoch
    config.prompt.language = "en"  # the codebook's texts; or "de", ..., or "country": each its own
    config.prompt.chat = False

    config.lora = ConfigDict()
    config.lora.rank = 8
    config.lora.alpha = 16.0
    config.lora.dropout = 0.05
    config.lora.targets = ("q_proj", "k_proj", "v_proj", "o_proj")  # or ("all-linear",)
    config.lora.rslora = False  # True: scaled by alpha / sqrt(rank) instead of alpha / rank
    config.lora.init_from = placeholder(str)  # a PEFT directory: its rank, alpha and targets hold

    config.objective = ConfigDict()
    config.objective.stages = ((1.0, 0.0, 1), (0.0, 1.0, 1))  # (alpha, beta, epochs), Eq. 14
    config.objective.anchor = "mode"  # Eq. 13, weighed by alpha; or "forward_kl", "wasserstein"
    config.objective.anchor_normalizer = "options"  # Eq. 13 with Eq. 3; or "vocabulary"
    config.objective.toggles = ("attributes",)  # of a pair; or ("attributes", "country")
    # Or "precision" (inverse variance of effects), "toggle" (each attribute, country counts alike)
    config.objective.pair_weight = "none"

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-5
    config.optimizer.schedule = "constant"  # or "cosine", "linear": 0 after all stages
    config.optimizer.warmup = 0  # updates over which the rate rises
    config.optimizer.weight_decay = 0.01
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.grad_clip = placeholder(float)  # None: no clipping
    config.optimizer.accumulation = 1  # steps whose mean gradient makes one update
    config.optimizer.reset_between_stages = False  # True: each stage starts with fresh moments

    config.batch = ConfigDict()
    config.batch.unit = "pair"  # or "context" (a country's question with all its pairs), "question"
    config.batch.size = 8
    config.batch.neighbours = 1  # contexts of one country that share a trie; divides the size
    config.batch.countries = 12  # of a question, at most, drawn each epoch; with unit "question"
    config.batch.row_lengths = ROW_LENGTHS  # allowed trie nodes a row, ascending multiples of 32

    # Held-out pairs, scored while training goes on (docs/launch.md, "Watch it").
    config.validation = ConfigDict()
    config.validation.every_steps = placeholder(int)  # None: never; else also at a stage's end
    config.validation.pairs = 512  # at most, in contexts that the seed draws
    config.validation.select_best = False  # True: the adapter is the last stage's best
    config.validation.patience = placeholder(int)  # validations without gain that end the run

    config.mesh = ConfigDict()
    config.mesh.data = -1
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    # Several processes (docs/launch.md). SLURM, TPU VMs and JobSet say what is None here.
    config.distributed = ConfigDict()
    config.distributed.initialize = False
    config.distributed.coordinator = placeholder(str)  # host:port of process 0
    config.distributed.num_processes = placeholder(int)
    config.distributed.process_id = placeholder(int)

    config.log = ConfigDict()
    config.log.wandb = placeholder(str)  # a Weights & Biases project

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500
    config.checkpoint.every_minutes = 10.0  # whichever comes first; and at the end of a stage
    config.checkpoint.keep = 2
    return config.lock()
