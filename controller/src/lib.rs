//! The control plane: desired state and its application.
