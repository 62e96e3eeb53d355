"""Published weights into our networks, and ours back out."""

from resnet_keras.models.weights.loading import load_weights
from resnet_keras.models.weights.saving import save_weights, torch_state_dict

__all__ = ["load_weights", "save_weights", "torch_state_dict"]
