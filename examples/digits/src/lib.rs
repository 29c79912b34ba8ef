//! Federated learning on handwritten digits.
