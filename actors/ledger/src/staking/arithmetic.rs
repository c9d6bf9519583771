//! Shares of amounts in integers: a product of two amounts needs 256 bits.

/// floor(a · b / c); none if c is 0 or the quotient exceeds 128 bits.
pub(super) fn mul_div(a: u128, b: u128, c: u128) -> Option<u128> {
    divide(a, b, c).map(|(quotient, _)| quotient)
}

/// ceil(a · b / c); none if c is 0 or the quotient exceeds 128 bits.
pub(super) fn mul_div_up(a: u128, b: u128, c: u128) -> Option<u128> {
    let (quotient, rest) = divide(a, b, c)?;
    if rest == 0 { Some(quotient) } else { quotient.checked_add(1) }
}

fn divide(a: u128, b: u128, c: u128) -> Option<(u128, u128)> {
    if c == 0 {
        return None;
    }
    if let Some(product) = a.checked_mul(b) {
        return Some((product / c, product % c));
    }
    let (high, low) = wide(a, b);
    if high >= c {
        return None;
    }
    // Schoolbook division, a bit a step: the rest stays below c, and takes one bit more than 128 when shifted.
    let (mut rest, mut quotient) = (high, 0_u128);
    for bit in (0..128).rev() {
        let carry = rest >> 127 == 1;
        rest = (rest << 1) | ((low >> bit) & 1);
        quotient <<= 1;
        if carry || rest >= c {
            rest = rest.wrapping_sub(c);
            quotient |= 1;
        }
    }
    Some((quotient, rest))
}

/// The 256-bit product as its two halves.
const fn wide(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (low, mid, mid2, high) = (a0 * b0, a1 * b0, a0 * b1, a1 * b1);
    let carried = (low >> 64) + (mid & LOW) + (mid2 & LOW);
    (high + (mid >> 64) + (mid2 >> 64) + (carried >> 64), (carried << 64) | (low & LOW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_beyond_128_bits_divide_exactly() {
        for (a, b, c) in [
            (7, 3, 2),
            (u128::MAX, u128::MAX, u128::MAX),
            (u128::MAX - 1, 1 << 90, u128::MAX),
            (1 << 100, (1 << 90) + 7, (1 << 99) + 5),
        ] {
            let (quotient, rest) = divide(a, b, c).expect("fits");
            assert!(rest < c);
            // quotient · c + rest = a · b, in two halves.
            let (high, low) = wide(quotient, c);
            let (sum, carry) = low.overflowing_add(rest);
            assert_eq!((high + u128::from(carry), sum), wide(a, b), "{a} {b} {c}");
        }
        assert_eq!((mul_div(7, 3, 2), mul_div_up(7, 3, 2), mul_div_up(7, 4, 2)), (Some(10), Some(11), Some(14)));
        assert_eq!((mul_div(1, 1, 0), mul_div(u128::MAX, 2, 1)), (None, None));
    }
}
