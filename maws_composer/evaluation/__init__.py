"""Evaluations: functions of features, labels and texts that give figures. Importing this registers them."""

from maws_composer.evaluation import caption_retrieval, exact_map, knn, lbfgs_probe, linear_probe, own_head, zero_shot

__all__ = ["caption_retrieval", "exact_map", "knn", "lbfgs_probe", "linear_probe", "own_head", "zero_shot"]
