"""What a pretrained encoder is good for: classifiers and regressors on it, and linear probes."""
