"""02's verdict: the installed torch against the machine's GPUs and the build that fits them."""

from helpers.commands import set_line, this_shell
from helpers.errors import TorchBuildError
from helpers.report import Check, Subject
from helpers.torch_build.builds import Choice, has_defect, serves
from helpers.torch_build.probe import TorchReport, verify

CHOICE = Subject(
    "torch_choice", "a build for GPU, driver and Python", "it needs code for the GPU and a new enough driver"
)
BUILD = Subject(
    "torch_build",
    "a build with code for this GPU, or a CPU build where there is none",
    "pip replaces a CUDA build by a CPU build without a word, and says nothing where a build lacks code",
)
INSTALLED = Subject("torch_installed", "a torch that imports", "everything after step 2 computes with torch")
GPU_USE = Subject("torch_gpu", "is_available()=True with an NVIDIA GPU", "the CPU is many times slower")
KERNEL = Subject(
    "torch_kernel", "an exact matrix product in a fresh process", "is_available() is no proof of GPU code"
)


def check_torch(choice: Choice) -> list[Check]:
    """Let the installed torch compute in a fresh process and judge it; see :func:`judge`."""
    return judge(choice, verify())


def judge(choice: Choice, report: TorchReport) -> list[Check]:
    """The checks ``torch_choice``, ``torch_installed``, and of a torch ``torch_gpu`` and ``torch_kernel``."""
    fix = f"Close every notebook's kernel and run: {choice.install_line}"
    if isinstance(choice.outcome, TorchBuildError):
        fix = choice.outcome.fix
    if report.version is None:
        return [judge_choice(choice), INSTALLED.fail(report.error or "torch is not installed", fix)]
    kind = f"CUDA {report.cuda}" if report.cuda else "CPU build"
    installed = INSTALLED.ok(f"torch {report.version} ({kind})")
    return [judge_choice(choice), installed, judge_gpu_use(choice, report, fix), judge_kernel(report, fix)]


def judge_choice(choice: Choice) -> Check:
    """Which build fits the machine: the check ``torch_choice``."""
    if isinstance(choice.outcome, TorchBuildError):
        return CHOICE.warn(choice.outcome.what, choice.outcome.fix)
    return CHOICE.ok(f"{choice.outcome.requirement}. {choice.outcome.reason}")


def judge_build(choice: Choice, version: str | None, cuda: str | None, fix: str) -> Check:
    """An installed build against the machine, without starting it: the check ``torch_build``.

    ``version`` is such as ``"2.13.0+cu126"``, None without torch; ``cuda`` is None for a CPU build.
    """
    if version is None:
        return BUILD.skip("torch is not installed", fix)
    text = f"torch {version}, {f'CUDA {cuda}' if cuda else 'CPU build'}"
    right = "" if isinstance(choice.outcome, TorchBuildError) else choice.outcome.requirement
    if choice.gpus and cuda is None and right and not right.endswith("+cpu"):
        return BUILD.warn(f"{text}, although {choice.gpus[0].name} could run {right}", fix)
    served = [gpu.capability is None or serves(version, cuda, gpu.capability) for gpu in choice.gpus]
    if cuda and served and all(answer is False for answer in served):
        first = choice.gpus[0]
        return BUILD.fail(f"{text} has no code for capability {first.capability} ({first.name})", fix)
    if defect := has_defect(version):
        return BUILD.warn(f"{text}. {defect}", fix)
    return BUILD.ok(text)


def judge_gpu_use(choice: Choice, report: TorchReport, fix: str) -> Check:
    """Whether torch sees the GPU that is there: the check ``torch_gpu``."""
    if not choice.gpus:
        return GPU_USE.ok("no NVIDIA GPU here: everything runs on the CPU")
    if report.available:
        return GPU_USE.ok(f"is_available=True: {report.device}, {report.capability}")
    cause = "this is a CPU build" if report.cuda is None else "torch cannot use the driver"
    text = f"is_available=False although there is {choice.gpus[0].name}: {cause}; everything runs on the CPU"
    return GPU_USE.warn(text, fix)


def judge_kernel(report: TorchReport, fix: str) -> Check:
    """Whether a matrix product came out right in a fresh process: the check ``torch_kernel``."""
    if not report.kernel:
        built = f"; the build has code for {', '.join(report.architectures)}" if report.architectures else ""
        return KERNEL.fail(f"{report.error}{built}", fix)
    text = f"a matrix product on {report.kernel} is exact"
    if report.failing:
        hide = f"Hide that GPU: {set_line('CUDA_VISIBLE_DEVICES', '0', this_shell())}"
        return KERNEL.warn(f"{text}; not on {'; '.join(report.failing)}", hide)
    return KERNEL.ok(text)
