//! `Accept-Encoding` (RFC 9110, section 12.5.3): which coding a peer likes best of those we have.

use crate::Coding;

/// The coding to answer in, by the values of a request's `Accept-Encoding`. `None`: as it is.
pub fn best<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Coding> {
    // In thousandths, as far as they were said.
    let (mut said, mut others, mut identity) = ([None; Coding::ALL.len()], None, None);
    for part in values.into_iter().flat_map(|value| value.split(',')) {
        let mut fields = part.split(';');
        let name = fields.next().unwrap_or_default().trim();
        let quality = fields.next().map_or(Some(1000), quality).unwrap_or(0);
        if name == "*" {
            others = Some(quality);
        } else if name.eq_ignore_ascii_case("identity") {
            identity = Some(quality);
        } else if let Some(coding) = Coding::from_name(name) {
            let place = Coding::ALL.iter().position(|one| *one == coding)?;
            said[place] = Some(quality);
        }
    }
    let mut best = None;
    for (coding, said) in Coding::ALL.into_iter().zip(said) {
        let quality: u16 = said.or(others).unwrap_or(0);
        // Ours come in the order we prefer them.
        if quality > best.map_or(0, |(_, quality)| quality) {
            best = Some((coding, quality));
        }
    }
    best.filter(|(_, quality)| *quality >= identity.unwrap_or(0)).map(|(coding, _)| coding)
}

/// `q=0.5` in thousandths.
fn quality(field: &str) -> Option<u16> {
    let number = field.trim().strip_prefix("q=").or_else(|| field.trim().strip_prefix("Q="))?;
    let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
    if rest.len() > 3 || !rest.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let rest: u16 = format!("{rest:0<3}").parse().ok()?;
    match whole {
        "0" => Some(rest),
        "1" if rest == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_decides_then_we() {
        let (zstd, gzip, brotli) = (Some(Coding::Zstd), Some(Coding::Gzip), Some(Coding::Brotli));
        let table = [
            ("", None),
            ("identity", None),
            ("deflate", None),
            ("gzip", gzip),
            ("X-GZIP", gzip),
            ("gzip, deflate, br", gzip),
            ("gzip, deflate, br, zstd", zstd),
            ("gzip;q=0.8, br;q=1.0", brotli),
            ("gzip;q=0.8,br; q=0.801", brotli),
            ("gzip;q=0", None),
            ("*", zstd),
            ("*;q=0.1", zstd),
            ("zstd;q=0, *", gzip),
            ("gzip;q=0.5, *;q=0", gzip),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", gzip),
            ("identity;q=0, gzip;q=0.1", gzip),
            ("gzip;q=soon", None),
            ("gzip;q=2", None),
            ("gzip;q=0.1234", None),
            (";;;,,=", None),
        ];
        for (said, expected) in table {
            assert_eq!(best([said]), expected, "{said}");
        }
        assert_eq!(best(["deflate", "br"]), brotli);
        assert_eq!(best([]), None);
    }
}
