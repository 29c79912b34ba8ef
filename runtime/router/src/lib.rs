//! Routes descriptors to ports: in the kernel, or in user space.
