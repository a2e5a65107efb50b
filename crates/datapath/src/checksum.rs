//! The Internet checksum (RFC 1071), in two halves: what is summed up may be in several pieces.

/// The sum of a piece, not yet folded. All pieces but the last have an even number of bytes, and all together less than 64 kB,
/// so that it cannot overflow.
pub fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2);
    pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

/// A sum of all pieces with its carries added, not yet inverted.
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What is to be written where the pieces have zero; 0 over pieces that hold their own checksum already, if that is right.
pub fn checksum(sum: u32) -> u16 {
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        let (first, second) = bytes.split_at(4);
        assert_eq!(fold(sum(first) + sum(second)), 0xddf2, "in pieces");
        let whole = [&bytes[..], &checksum(sum(&bytes)).to_be_bytes()].concat();
        assert_eq!(checksum(sum(&whole)), 0);
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600, "an odd byte is the higher one");
    }
}
