//! The two ways in which descriptors find their way.

/// What `--sidecar` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// The program in the kernel.
    Ebpf,
    /// The router in the agent.
    Userspace,
}

impl Sidecar {
    /// The name on the command line, in status documents and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Userspace => "userspace",
        }
    }
}

/// Makes two tests of every scenario (a function that takes a [`Sidecar`]): `ebpf::name` and
/// `userspace::name`.
#[macro_export]
macro_rules! on_both_sidecars {
    ($($(#[$attribute:meta])* $scenario:ident),+ $(,)?) => {
        mod ebpf {
            $(#[test]
            $(#[$attribute])*
            fn $scenario() {
                super::$scenario($crate::Sidecar::Ebpf);
            })+
        }
        mod userspace {
            $(#[test]
            $(#[$attribute])*
            fn $scenario() {
                super::$scenario($crate::Sidecar::Userspace);
            })+
        }
    };
}
