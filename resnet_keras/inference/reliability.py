"""How far a model's confidence can be believed (Guo et al. 2017), and where it was most wrong."""

import heapq
from dataclasses import dataclass, field

import numpy as np

BINS = 15
MISTAKES = 8


@dataclass(frozen=True)
class Bin:
    """The images whose confidence, the probability of the predicted class, is above `low` and at most `high`."""

    low: float
    high: float
    examples: int
    confidence: float
    """Mean, 0 to 1."""
    accuracy: float


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class."""

    place: int
    """Among the images of its split, from 0."""
    pixels: np.ndarray
    """uint8 [H, W, C], as prepared for the network."""
    target: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Reliability:
    """Confidence of each image, and whether its prediction is correct, in the order of the split."""

    confidence: np.ndarray
    """float32 [N]: the probability of the predicted class."""
    correct: np.ndarray
    """bool [N]"""
    mistakes: tuple[Mistake, ...]
    """The most confident ones, the worst first."""

    @property
    def bins(self) -> list[Bin]:
        """Bins of equal width that have an image."""
        index = np.clip(np.ceil(self.confidence * BINS).astype("int64") - 1, 0, BINS - 1)
        bins = []
        for i in np.unique(index):
            own = index == i
            confidence, accuracy = float(self.confidence[own].mean()), float(self.correct[own].mean())
            bins.append(Bin(i / BINS, (i + 1) / BINS, int(own.sum()), confidence, accuracy))
        return bins

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1: the mean distance of confidence and accuracy over the bins, by images."""
        return sum(one.examples * abs(one.accuracy - one.confidence) for one in self.bins) / len(self.confidence)


@dataclass
class ReliabilityLog:
    """Gathers a `Reliability`, a batch at a time."""

    confidence: list[np.ndarray] = field(default_factory=list)
    correct: list[np.ndarray] = field(default_factory=list)
    worst: list[tuple[float, int, Mistake]] = field(default_factory=list)
    seen: int = 0

    def add(self, pixels: np.ndarray, probabilities: np.ndarray, targets: np.ndarray) -> None:
        """Add a batch: pixels `[N, H, W, C]`, 0 to 255, probabilities `[N, classes]`, class numbers `[N]`."""
        predicted = probabilities.argmax(-1)
        confidence = np.nan_to_num(probabilities[np.arange(len(predicted)), predicted]).astype("float32")
        correct = predicted == targets
        self.confidence.append(confidence)
        self.correct.append(correct)
        wrong = np.flatnonzero(~correct)
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]:
            order = (float(confidence[i]), -(self.seen + int(i)))
            if len(self.worst) == MISTAKES and order <= self.worst[0][:2]:
                break
            # A copy: else eight images would keep eight batches.
            own = pixels[i].clip(0, 255).astype("uint8")
            mistake = Mistake(self.seen + int(i), own, int(targets[i]), int(predicted[i]), order[0])
            (heapq.heappush if len(self.worst) < MISTAKES else heapq.heapreplace)(self.worst, (*order, mistake))
        self.seen += len(targets)

    def result(self) -> Reliability:
        mistakes = tuple(one[-1] for one in sorted(self.worst, key=lambda one: one[:2], reverse=True))
        return Reliability(np.concatenate(self.confidence), np.concatenate(self.correct), mistakes)
