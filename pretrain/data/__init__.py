"""Pictures for pretraining: class folders and CIFAR, decoded, augmented, in an order that a seed decides."""
