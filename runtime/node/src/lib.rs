//! A node's gateway, agent and worker.
