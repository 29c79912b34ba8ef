//! What lies at an address, in the words of a call.

use super::Shown;
use crate::abi::PAGE_BYTES;
use crate::plan::Role;

/// Says what lies at `offset` of the window if `operands` are shown in it.
pub(super) fn name(offset: u64, operands: impl Iterator<Item = (Role, Shown)>) -> String {
    let mut nearest: Option<(u64, Role)> = None;
    for (role, shown) in operands {
        let scalars = shown.scalars.unwrap_or(u64::MAX);
        if offset
            .checked_sub(scalars)
            .is_some_and(|at| at < PAGE_BYTES)
        {
            return format!("byte {} of the scalars of {role}", offset - scalars);
        }
        let bytes = shown.data.end - shown.data.start;
        match offset.checked_sub(shown.at) {
            Some(at) if at < bytes => return in_vector(role, at + shown.data.start - shown.vector),
            Some(at) if nearest.is_none_or(|(least, _)| at - bytes < least) => {
                nearest = Some((at - bytes, role));
            }
            _ => {}
        }
    }
    match nearest {
        Some((0, role)) => format!("right behind the vector of {role}"),
        Some((distance, role)) => format!("{distance} bytes behind the vector of {role}"),
        None => "which is nothing that the call names".into(),
    }
}

fn in_vector(role: Role, at: u64) -> String {
    match role {
        Role::Output => format!("byte {at} of the vector of {role}, outside of the call's range"),
        _ => format!("byte {at} of the vector of {role}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_as_the_call_sees_it() {
        let shown = |at: u64, part: u64| Shown {
            data: 50_000 + part..50_000 + 8192,
            vector: 50_000,
            at,
            scalars: Some(at - PAGE_BYTES),
        };
        let name = |offset: u64| {
            let operands = [
                (Role::Output, shown(12_288, 0)),
                (Role::Input(2), shown(100_000, 4096)),
            ];
            name(offset, operands.into_iter())
        };
        assert_eq!(name(0), "which is nothing that the call names");
        assert_eq!(name(8200), "byte 8 of the scalars of the output");
        let text = "byte 8191 of the vector of the output, outside of the call's range";
        assert_eq!(name(20_479), text);
        assert_eq!(name(20_480), "right behind the vector of the output");
        assert_eq!(name(24_576), "4096 bytes behind the vector of the output");
        assert_eq!(name(100_010), "byte 4106 of the vector of input 2");
        assert_eq!(name(104_100), "4 bytes behind the vector of input 2");
    }
}
