//! The patterns of LIKE: `%` for any characters, `_` for one, `[a-z]` and `[^a-z]` for one of a set.

/// Whether the pattern fits the whole text, in whatever case.
pub fn like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let pattern = compile(&pattern.to_lowercase());
    // One place to return to is enough: a later % can take whatever an earlier one could.
    let (mut at, mut piece) = (0, 0);
    let mut retry = None;
    loop {
        match pattern.get(piece) {
            Some(Piece::Any) => {
                retry = Some((at, piece));
                piece += 1;
                continue;
            }
            Some(one) if text.get(at).is_some_and(|c| one.fits(*c)) => {
                at += 1;
                piece += 1;
                continue;
            }
            None if at == text.len() => return true,
            _ => {}
        }
        match &mut retry {
            Some((from, any)) if *from < text.len() => {
                *from += 1;
                (at, piece) = (*from, *any + 1);
            }
            _ => return false,
        }
    }
}

enum Piece {
    Any,
    One,
    Char(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Piece {
    fn fits(&self, c: char) -> bool {
        match self {
            Piece::Any => false,
            Piece::One => true,
            Piece::Char(own) => *own == c,
            Piece::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

fn compile(pattern: &str) -> Vec<Piece> {
    let mut pieces = vec![];
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        pieces.push(match c {
            '%' => Piece::Any,
            '_' => Piece::One,
            // A set holds at least one character, so that `[]]` is a bracket; an open one is a character.
            '[' => match rest.char_indices().skip(1).find(|(_, c)| *c == ']') {
                Some((end, _)) => {
                    let set = &rest[..end];
                    rest = &rest[end + 1..];
                    set_of(set)
                }
                None => Piece::Char('['),
            },
            c => Piece::Char(c),
        });
    }
    pieces
}

fn set_of(set: &str) -> Piece {
    let (negated, set) = match set.strip_prefix(['^', '!']) {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, set),
    };
    let chars: Vec<char> = set.chars().collect();
    let (mut ranges, mut at) = (vec![], 0);
    while at < chars.len() {
        let range = chars.get(at + 1) == Some(&'-') || chars.get(at + 1) == Some(&'=');
        match chars.get(at + 2).filter(|_| range) {
            Some(high) => {
                ranges.push((chars[at], *high));
                at += 3;
            }
            None => {
                ranges.push((chars[at], chars[at]));
                at += 1;
            }
        }
    }
    Piece::Set { negated, ranges }
}
