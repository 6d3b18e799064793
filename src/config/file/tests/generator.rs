//! Configuration files from a seed: every production of the grammar, and what breaks it

use std::collections::BTreeMap;

/// What the files can read of the environment.
pub(super) const VARIABLES: [(&str, &str); 16] = [
    ("EV", "22"),
    ("ES", "'3x'"),
    ("EB", "a b"),
    ("EM", "{x: 1, y: [2 , 3]}"),
    ("EE", ""),
    ("EN", "1k"),
    ("EU", "$EV"),
    ("EK", "$pk"),
    ("EX", "$NOPE"),
    ("EL", "5 # five"),
    ("EI", "1\ninclude leaf.conf"),
    ("EQ", "\"unclosed"),
    ("ET", "true"),
    ("EC", "1kbb"),
    ("ED", "2016-05-04T18:53:41Z"),
    ("EP", "/data/stan"),
];

/// Numbers from a seed (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// True in `percent` of 100 cases.
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.below(texts.len())]
    }
}

/// One case: its files by name, the first of which is `main.conf`.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Makes files, and counts what is in them.
pub(super) struct Generator {
    dice: Dice,
    pub counts: BTreeMap<&'static str, usize>,
}

/// Characters and pieces that mean something somewhere.
const PIECES: [&[u8]; 74] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b"=",
    b":",
    b",",
    b";",
    b"#",
    b"/",
    b"//",
    b"\"",
    b"'",
    b"$",
    b"\\",
    b".",
    b"-",
    b"0",
    b"1",
    b"7",
    b"k",
    b"Kb",
    b"m",
    b"MiB",
    b"e",
    b"b",
    b"i",
    b" ",
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b"\x0b",
    b"\x0c",
    b"\x00",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xef\xbb\xbf",
    b"\xc3\xa9",
    b"\xd9\xa3",
    b"\xff",
    b"\xc3",
    b"T",
    b"Z",
    b"a",
    b"b",
    b"x",
    b" a ",
    b"a: ",
    b"b = ",
    b"include ",
    b"include",
    b"true",
    b"off",
    b"$EV",
    b"$a",
    b"\\x41",
    b"\\n",
    b"\\q",
    b"\n)\n",
    b"\n)",
    b"2016-05-04T18:53:41Z",
    b"1.5",
    b"127.0.0.1:4222",
    b"-5",
    b"1e3",
    b"'leaf.conf'",
    b"1kbb",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"leaf.conf",
];

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), counts: BTreeMap::new() }
    }

    fn note(&mut self, production: &'static str) {
        *self.counts.entry(production).or_default() += 1;
    }

    /// The next case.
    pub fn case(&mut self) -> Files {
        let mut files = Files::new();
        let names = ["main.conf", "inner.conf", "sub/deep.conf", "leaf.conf"];
        for (level, name) in names.iter().enumerate() {
            let text = match self.dice.below(20) {
                _ if level > 0 && self.dice.chance(85) => self.document(2, level),
                0..12 => self.document(0, level),
                12..17 => {
                    let text = self.document(0, level);
                    self.mutated(text)
                }
                _ => self.soup(level),
            };
            files.insert((*name).to_owned(), text);
        }
        let is_needed = |name: &str, files: &Files| {
            let file = name.rsplit('/').next().unwrap().as_bytes().to_vec();
            files.values().any(|text| text.windows(file.len()).any(|part| part == file))
                || name == "leaf.conf" && files.values().any(|text| has(text, b"EI"))
        };
        for name in ["inner.conf", "sub/deep.conf", "leaf.conf"] {
            if !is_needed(name, &files) {
                files.remove(name);
            }
        }
        files
    }

    fn soup(&mut self, level: usize) -> Vec<u8> {
        self.note("soup of marks");
        let mut text = Vec::new();
        for _ in 0..1 + self.dice.below(24) {
            let piece = PIECES[self.dice.below(PIECES.len())];
            let is_leaf = level == 3 && has(piece, b"leaf");
            text.extend_from_slice(if is_leaf { b"a" } else { piece });
        }
        text
    }

    fn mutated(&mut self, mut text: Vec<u8>) -> Vec<u8> {
        self.note("mutation");
        for _ in 0..1 + self.dice.below(3) {
            let place = self.dice.below(text.len() + 1);
            match self.dice.below(6) {
                0 => text.truncate(place),
                1 | 2 => {
                    let piece = PIECES[self.dice.below(60)];
                    text.splice(place..place, piece.iter().copied());
                }
                3 | 4 if place < text.len() => {
                    text.remove(place);
                }
                _ if place < text.len() => {
                    let piece = PIECES[self.dice.below(50)];
                    text.splice(place..=place, piece.iter().copied());
                }
                _ => {}
            }
        }
        text
    }

    fn document(&mut self, depth: usize, level: usize) -> Vec<u8> {
        let mut text = Vec::new();
        if level == 0 && self.dice.chance(1) {
            self.note("byte order mark");
            text.extend_from_slice("\u{feff}".as_bytes());
        }
        let is_wrapped = self.dice.chance(12);
        if is_wrapped {
            self.note("document in braces");
            text.push(b'{');
            self.gap(&mut text, true);
        }
        for _ in 0..self.dice.below(5) {
            self.entry(&mut text, depth, level, is_wrapped);
        }
        if is_wrapped {
            text.extend_from_slice(self.dice.pick(&["}", "}\n", " }", "\n}\n"]).as_bytes());
        }
        if self.dice.chance(8) {
            self.note("lines that end in CR LF");
            let mut lines = Vec::new();
            for byte in text {
                if byte == b'\n' {
                    lines.push(b'\r');
                }
                lines.push(byte);
            }
            return lines;
        }
        text
    }

    /// Blanks; with `lines`, also line ends and comments.
    fn gap(&mut self, text: &mut Vec<u8>, lines: bool) {
        while self.dice.chance(25) {
            if !lines || self.dice.chance(60) {
                text.push(if self.dice.chance(85) { b' ' } else { b'\t' });
                continue;
            }
            match self.dice.below(6) {
                0 => {
                    self.note("comment with a hash");
                    text.extend_from_slice(b"# x { 'y\n");
                }
                1 => {
                    self.note("comment with slashes");
                    text.extend_from_slice(b"// x = \"y\n");
                }
                2 => {
                    self.note("odd blank");
                    let blanks = ["\u{a0}", "\x0b", "\x0c", "\u{2028}", "\u{85}", "\r"];
                    text.extend_from_slice(self.dice.pick(&blanks).as_bytes());
                }
                _ => text.push(b'\n'),
            }
        }
    }

    fn entry(&mut self, text: &mut Vec<u8>, depth: usize, level: usize, in_map: bool) {
        self.gap(text, true);
        if self.dice.chance(6) && level < 3 {
            self.include(text, level);
        } else {
            self.key(text);
            self.separator(text, in_map);
            self.value(text, depth, level, in_map);
        }
        self.gap(text, false);
        let ends = if in_map {
            [",", "\n", "\n", ";", ", ", "/", " # c\n", " // c\n", "\r\n", "\r"]
        } else {
            ["\n", "\n", "\n", ";", ",", "/\n", " # c\n", "//c\n", "\r\n", "\n\n"]
        };
        text.extend_from_slice(self.dice.pick(&ends).as_bytes());
    }

    fn key(&mut self, text: &mut Vec<u8>) {
        let name = self.dice.pick(&["a", "b", "c", "x", "port", "streaming", "dir", "users"]);
        match self.dice.below(12) {
            0 => {
                self.note("key in double quotes");
                text.extend_from_slice(format!("\"{name}\"").as_bytes());
            }
            1 => {
                self.note("key in single quotes");
                text.extend_from_slice(format!("'{name}'").as_bytes());
            }
            2 => {
                self.note("odd key");
                let odd: [&[u8]; 16] = [
                    b"a.b",
                    b"foo.>",
                    b"*",
                    b"a/b",
                    b"a{b",
                    b"a,b",
                    b"a;b",
                    b"a\"b",
                    b"a#b",
                    b"$a",
                    b"\xc3\xa9",
                    b"\xff",
                    b"5",
                    b"-",
                    b"\"a b:=\"",
                    b"Include",
                ];
                text.extend_from_slice(odd[self.dice.below(odd.len())]);
            }
            3 if self.dice.chance(30) => {
                self.note("empty key");
                text.extend_from_slice(b"\"\"");
            }
            _ => text.extend_from_slice(name.as_bytes()),
        }
    }

    fn separator(&mut self, text: &mut Vec<u8>, in_map: bool) {
        match self.dice.below(8) {
            0 => {
                self.note("blank between key and value");
                text.extend_from_slice(self.dice.pick(&[" ", "  ", "\t", "\n ", " \n"]).as_bytes());
            }
            1 | 2 => {
                self.note("equals sign");
                text.extend_from_slice(self.dice.pick(&["=", " = ", "= ", " ="]).as_bytes());
            }
            3 if in_map => {
                self.note("value on the next line");
                text.extend_from_slice(b":\n ");
            }
            _ => {
                self.note("colon");
                text.extend_from_slice(self.dice.pick(&[":", ": ", " : ", ":  "]).as_bytes());
            }
        }
    }

    fn include(&mut self, text: &mut Vec<u8>, level: usize) {
        self.note("include");
        let names: &[&str] = match level {
            0 => &["inner.conf", "sub/deep.conf", "leaf.conf", "./leaf.conf", "/leaf.conf"],
            1 => &["sub/deep.conf", "leaf.conf", "sub/../leaf.conf"],
            // Seen from its own folder, also where it is read from the outer one.
            _ => &["../leaf.conf", "../leaf.conf", "leaf.conf"],
        };
        let mut name = self.dice.pick(names).to_owned();
        if self.dice.chance(6) {
            self.note("include of what is not there");
            name = self.dice.pick(&["missing.conf", "sub", "5.conf", "", "{", "[x]"]).to_owned();
        }
        let word = self.dice.pick(&["include", "include", "INCLUDE", "Include"]);
        let form = self.dice.pick(&["' '", "'x'", "\"x\"", "x", "x'", "\tx", "\nx"]);
        let place = form.replace('x', &name).replace("' '", &format!("'{name}'"));
        text.extend_from_slice(format!("{word} {place}").as_bytes());
    }

    fn value(&mut self, text: &mut Vec<u8>, depth: usize, level: usize, in_map: bool) {
        match self.dice.below(26) {
            0..3 if depth < 4 => self.map(text, depth + 1, level),
            3..6 if depth < 4 => self.array(text, depth + 1, level),
            6 => self.block(text),
            7 | 8 => self.double_quoted(text),
            9 => {
                self.note("string in single quotes");
                let forms = ["''", "'a b'", "'\\n'", "'two\nlines'", "'# no'", "'$EV'", "'\"'"];
                text.extend_from_slice(self.dice.pick(&forms).as_bytes());
            }
            10..13 => self.integer(text),
            13 => self.float(text),
            14 => {
                self.note("date");
                let dates = [
                    "2016-05-04T18:53:41Z",
                    "2016-02-29T00:00:00Z",
                    "2015-02-29T00:00:00Z",
                    "2016-13-01T00:00:00Z",
                    "2016-05-04",
                    "2016-05-04T24:00:00Z",
                    "2016-05-04T18:53:41+01:00",
                    "0000-01-01T23:59:59Z",
                    "1900-02-29T23:59:60Z",
                ];
                text.extend_from_slice(self.dice.pick(&dates).as_bytes());
            }
            15 => {
                self.note("boolean");
                let words = ["true", "FALSE", "Yes", "no", "on", "oFf", "true'", "truely"];
                text.extend_from_slice(self.dice.pick(&words).as_bytes());
            }
            16 | 17 => self.variable(text, level),
            18 | 19 => self.odd_bare(text),
            20 => {
                self.note("no value");
                let ends = ["", "\n", ",", ";", "}", "]", "{}", "[]", "#", "//", "# c\n 5"];
                text.extend_from_slice(self.dice.pick(&ends).as_bytes());
            }
            21 if in_map => {
                self.note("value that begins like a comment");
                let values = ["/data/stan", "#ab", "//x", "/", "#", "/*"];
                text.extend_from_slice(self.dice.pick(&values).as_bytes());
            }
            _ => {
                self.note("bare string");
                let words = ["abc", "nats://u:p@h:1", "a.b.c", "/data", "_x", "é", "a=b", "x:y"];
                text.extend_from_slice(self.dice.pick(&words).as_bytes());
            }
        }
    }

    fn map(&mut self, text: &mut Vec<u8>, depth: usize, level: usize) {
        self.note("map");
        text.push(b'{');
        for _ in 0..self.dice.below(4) {
            self.entry(text, depth, level, true);
        }
        self.gap(text, true);
        if self.dice.chance(97) {
            text.push(b'}');
        }
    }

    fn array(&mut self, text: &mut Vec<u8>, depth: usize, level: usize) {
        self.note("array");
        text.push(b'[');
        let count = self.dice.below(4);
        for place in 0..count {
            self.gap(text, true);
            self.value(text, depth, level, false);
            if self.dice.chance(70) {
                text.push(b' ');
            }
            if place + 1 < count || self.dice.chance(25) {
                let ends = [",", ", ", "\n", ",\n", "\n", " # c\n", "/", ",,"];
                text.extend_from_slice(self.dice.pick(&ends).as_bytes());
            }
        }
        self.gap(text, true);
        if self.dice.chance(97) {
            text.push(b']');
        }
    }

    fn block(&mut self, text: &mut Vec<u8>) {
        self.note("block");
        let blocks = [
            "(\nx { y }\n)\n",
            "(\n)\n",
            "(a)\n)\n",
            "(\nx\n)",
            "(\nx\n )\n)\n",
            "(x)",
            "()\n",
            "(\nx\n)\r\n",
            "(\né)\n)\n",
            "(\n\n)\n",
            "( )\n)\n,",
            "(\n)x\n)\n",
        ];
        text.extend_from_slice(self.dice.pick(&blocks).as_bytes());
    }

    fn double_quoted(&mut self, text: &mut Vec<u8>) {
        self.note("string in double quotes");
        text.push(b'"');
        for _ in 0..self.dice.below(5) {
            let piece = self.dice.pick(&[
                "a", " ", "# ", "é", "\n", "\\n", "\\t", "\\r", "\\\"", "\\\\", "\\x41", "\\xfF",
                "'", "$EV", "\\x4", "\\q", "\\x0", "\\xg1", "{", "\\x00",
            ]);
            if piece.starts_with('\\') {
                self.note("escape");
            }
            text.extend_from_slice(piece.as_bytes());
        }
        if self.dice.chance(97) {
            text.push(b'"');
        }
    }

    fn integer(&mut self, text: &mut Vec<u8>) {
        self.note("whole number");
        let digits = [
            "0",
            "5",
            "-5",
            "42",
            "007",
            "1024",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "99999999999999999999",
            "-0",
            "-",
            "٣",
            "1٣",
        ];
        let number = if self.dice.chance(80) {
            (self.dice.below(2000)).to_string()
        } else {
            self.dice.pick(&digits).to_owned()
        };
        text.extend_from_slice(number.as_bytes());
        if self.dice.chance(40) {
            self.note("number with a suffix");
            let suffixes = [
                "k", "K", "kb", "KiB", "ki", "m", "MB", "mi", "g", "GB", "t", "tib", "p", "PB",
                "e", "eb", "kbb", "kib", "kbi", "x", "s", "ms", "m30s", "e3", "kx", "]", "'",
                "\\t",
            ];
            text.extend_from_slice(self.dice.pick(&suffixes).as_bytes());
        }
    }

    fn float(&mut self, text: &mut Vec<u8>) {
        self.note("number with a point");
        let floats = [
            "1.5",
            "-1.5",
            "0.0",
            "1.",
            ".5",
            "-.5",
            "1.5x",
            "2.8.0",
            "127.0.0.1",
            "1.5s",
            "1.2.",
            "127.0.0.1:4222",
            "1.2.3-4",
            "1.2.3x",
            "00.10",
            "1.٣",
            "1e3",
            "1.5e3",
            "123456789.123456789",
            "179769313486231570000000000000000000000000000000.0",
        ];
        text.extend_from_slice(self.dice.pick(&floats).as_bytes());
    }

    fn variable(&mut self, text: &mut Vec<u8>, level: usize) {
        self.note("variable");
        let (name, _) = VARIABLES[self.dice.below(VARIABLES.len())];
        let names = ["$a", "$b", "$c", "$x", "$", "$a.b", "$NOPE", "$2a$11$abc", "$EV'", "$a\\n"];
        // It includes the leaf: a cycle stops the Go parser's whole process.
        let is_cycle = name == "EI" && level == 3;
        let text_of_it = if self.dice.chance(45) && !is_cycle {
            format!("${name}")
        } else {
            self.dice.pick(&names).to_owned()
        };
        text.extend_from_slice(text_of_it.as_bytes());
    }

    fn odd_bare(&mut self, text: &mut Vec<u8>) {
        self.note("odd bare string");
        let odd: [&[u8]; 20] = [
            b"a\\tb",
            b"a'b",
            b"a\"b",
            b"a(b)",
            b"a{b",
            b"a[b",
            b"\xff\xfe",
            b"caf\xe9",
            b"a\\qb",
            b"5x",
            b"1h30m",
            b"10s",
            b"5 6",
            b"a b",
            b")",
            b"\\x41",
            b"a\x00b",
            b"a\xc2\xa0b",
            b"*",
            b"@x",
        ];
        text.extend_from_slice(odd[self.dice.below(odd.len())]);
    }
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
