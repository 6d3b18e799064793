//! Certificates of every kind, made by openssl: authorities, and what they sign.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Extensions of an authority as it should be.
const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign";

/// Names of a peer whose address is dialled.
const NAMES: &str = "subjectAltName=IP:127.0.0.1,DNS:localhost";

/// What a server's or client's certificate usually has.
const USUAL: &str = "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n\
                     extendedKeyUsage=serverAuth,clientAuth";

/// How one certificate is made.
#[derive(Clone, Copy)]
pub struct Recipe {
    /// Its name, that of its files, and its subject's common name.
    pub name: &'static str,
    /// Which key it has.
    key: &'static str,
    /// Who signs it; itself, if this is its own name.
    issuer: &'static str,
    /// Extensions; none make version 1.
    extensions: Option<&'static str>,
    /// More words for `openssl x509`.
    words: &'static [&'static str],
    /// What is sent behind it.
    pub chain: &'static [&'static str],
    /// Whether it is in the file of authorities.
    is_listed: bool,
}

const fn recipe(
    name: &'static str,
    issuer: &'static str,
    extensions: Option<&'static str>,
) -> Recipe {
    let words: &[&str] = &["-sha256"];
    Recipe { name, key: "p256", issuer, extensions, words, chain: &[], is_listed: false }
}

impl Recipe {
    const fn key(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    const fn words(self, words: &'static [&'static str]) -> Self {
        Self { words, ..self }
    }

    const fn through(self, chain: &'static [&'static str]) -> Self {
        Self { chain, ..self }
    }

    const fn listed(self) -> Self {
        Self { is_listed: true, ..self }
    }
}

const EXPIRED: &[&str] = &["-sha256", "-days", "-1"];

/// Who signs others.
const AUTHORITIES: [Recipe; 24] = [
    recipe("root", "root", Some(AUTHORITY)).key("rsa2048").listed(),
    recipe("root-ec", "root-ec", Some(AUTHORITY)).listed(),
    recipe("root-p521", "root-p521", Some(AUTHORITY)).key("p521").listed(),
    recipe("root-p224", "root-p224", Some(AUTHORITY)).key("p224").listed(),
    recipe("root-ed25519", "root-ed25519", Some(AUTHORITY)).key("ed25519").words(&[]).listed(),
    recipe("root-rsa1024", "root-rsa1024", Some(AUTHORITY)).key("rsa1024").listed(),
    recipe("root-rsa4096", "root-rsa4096", Some(AUTHORITY)).key("rsa4096").listed(),
    recipe("root-sha1", "root-sha1", Some(AUTHORITY)).key("rsa2048").words(&["-sha1"]).listed(),
    recipe("root-v1", "root-v1", None).key("rsa2048").listed(),
    recipe("root-expired", "root-expired", Some(AUTHORITY)).words(EXPIRED).listed(),
    recipe("root-not-ca", "root-not-ca", Some("basicConstraints=CA:FALSE")).listed(),
    recipe("root-bare", "root-bare", Some("subjectKeyIdentifier=hash")).listed(),
    recipe(
        "root-no-sign",
        "root-no-sign",
        Some("basicConstraints=CA:TRUE\nkeyUsage=digitalSignature"),
    )
    .listed(),
    recipe(
        "root-server",
        "root-server",
        Some("basicConstraints=CA:TRUE\nextendedKeyUsage=serverAuth"),
    )
    .listed(),
    recipe(
        "root-names",
        "root-names",
        Some(
            "basicConstraints=CA:TRUE\nnameConstraints=critical,permitted;DNS:example.org,\
             permitted;IP:127.0.0.0/255.0.0.0",
        ),
    )
    .listed(),
    recipe("root-short", "root-short", Some("basicConstraints=CA:TRUE,pathlen:0")).listed(),
    recipe("stranger", "stranger", Some(AUTHORITY)),
    recipe("between", "root", Some(AUTHORITY)),
    recipe("between-two", "between", Some(AUTHORITY)).through(&["between"]),
    recipe("between-v1", "root", None),
    recipe("between-not-ca", "root", Some("basicConstraints=CA:FALSE")),
    recipe("between-expired", "root", Some(AUTHORITY)).words(EXPIRED),
    recipe("between-short", "root-short", Some(AUTHORITY)),
    recipe("between-sha1", "root", Some(AUTHORITY)).words(&["-sha1"]),
];

/// What a server or a client shows.
pub const SHOWN: [Recipe; 83] = [
    // Keys.
    recipe("rsa1024", "root", Some(USUAL)).key("rsa1024"),
    recipe("rsa2048", "root", Some(USUAL)).key("rsa2048"),
    recipe("rsa3072", "root", Some(USUAL)).key("rsa3072"),
    recipe("rsa4096", "root", Some(USUAL)).key("rsa4096"),
    recipe("rsa-pss", "root", Some(USUAL)).key("pss"),
    recipe("p224", "root", Some(USUAL)).key("p224"),
    recipe("p256", "root", Some(USUAL)),
    recipe("p384", "root", Some(USUAL)).key("p384"),
    recipe("p521", "root", Some(USUAL)).key("p521"),
    recipe("secp256k1", "root", Some(USUAL)).key("secp256k1"),
    recipe("ed25519", "root", Some(USUAL)).key("ed25519"),
    recipe("ed448", "root", Some(USUAL)).key("ed448"),
    // Version 1.
    recipe("v1", "root", None),
    recipe("v1-rsa", "root", None).key("rsa2048"),
    recipe("v1-rsa1024", "root", None).key("rsa1024"),
    recipe("v1-p521", "root", None).key("p521"),
    recipe("v1-ed25519", "root", None).key("ed25519"),
    recipe("v1-of-ec", "root-ec", None),
    recipe("v1-of-v1", "root-v1", None),
    recipe("v1-expired", "root", None).words(EXPIRED),
    recipe("v1-of-expired", "root-expired", None),
    recipe("v1-of-stranger", "stranger", None),
    recipe("v1-sha1", "root", None).words(&["-sha1"]),
    recipe("v1-through", "between", None).through(&["between"]),
    // Longer chains.
    recipe("through", "between", Some(USUAL)).through(&["between"]),
    recipe("through-with-root", "between", Some(USUAL)).through(&["between", "root"]),
    recipe("through-two", "between-two", Some(USUAL)).through(&["between-two", "between"]),
    recipe("through-missing", "between", Some(USUAL)),
    recipe("through-v1", "between-v1", Some(USUAL)).through(&["between-v1"]),
    recipe("through-not-ca", "between-not-ca", Some(USUAL)).through(&["between-not-ca"]),
    recipe("through-expired", "between-expired", Some(USUAL)).through(&["between-expired"]),
    recipe("through-short", "between-short", Some(USUAL)).through(&["between-short"]),
    recipe("through-sha1", "between-sha1", Some(USUAL)).through(&["between-sha1"]),
    recipe("ca-through", "between", Some("basicConstraints=CA:TRUE\nsubjectAltName=IP:127.0.0.1"))
        .through(&["between"]),
    recipe(
        "eku-any-through",
        "between",
        Some("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=anyExtendedKeyUsage"),
    )
    .through(&["between"]),
    // Constraints.
    recipe("bare", "root", Some(NAMES)),
    recipe("ca-true", "root", Some("basicConstraints=CA:TRUE\nsubjectAltName=IP:127.0.0.1")),
    recipe(
        "ca-critical",
        "root",
        Some("basicConstraints=critical,CA:TRUE,pathlen:0\nsubjectAltName=IP:127.0.0.1"),
    ),
    // Listed themselves.
    recipe("self", "self", Some(NAMES)).listed(),
    recipe("self-ca", "self-ca", Some("basicConstraints=CA:TRUE\nsubjectAltName=IP:127.0.0.1"))
        .listed(),
    recipe("self-end", "self-end", Some(USUAL)).listed(),
    recipe("self-v1", "self-v1", None).listed(),
    recipe("self-p521", "self-p521", Some(USUAL)).key("p521").listed(),
    recipe("self-rsa1024", "self-rsa1024", Some(USUAL)).key("rsa1024").listed(),
    recipe("self-sha1", "self-sha1", Some(USUAL)).key("rsa2048").words(&["-sha1"]).listed(),
    recipe("self-expired", "self-expired", Some(USUAL)).words(EXPIRED).listed(),
    recipe(
        "self-server",
        "self-server",
        Some("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth"),
    )
    .listed(),
    recipe("self-unlisted", "self-unlisted", Some(USUAL)),
    recipe("listed-of-stranger", "stranger", Some(USUAL)).listed(),
    recipe("listed-v1-of-stranger", "stranger", None).listed(),
    // Names.
    recipe("no-names", "root", Some("basicConstraints=CA:FALSE")),
    recipe("other-name", "root", Some("subjectAltName=DNS:other.example")),
    recipe("names-allowed", "root-names", Some("subjectAltName=DNS:a.example.org,IP:127.0.0.1")),
    recipe("names-forbidden", "root-names", Some("subjectAltName=DNS:a.b,IP:127.0.0.1")),
    recipe("names-absent", "root-names", None),
    // Use.
    recipe("eku-server", "root", Some("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth")),
    recipe("eku-client", "root", Some("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=clientAuth")),
    recipe("eku-code", "root", Some("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=codeSigning")),
    recipe(
        "eku-any",
        "root",
        Some("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=anyExtendedKeyUsage"),
    ),
    recipe(
        "eku-critical",
        "root",
        Some("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=critical,codeSigning"),
    ),
    recipe("ku-encipher", "root", Some("subjectAltName=IP:127.0.0.1\nkeyUsage=keyEncipherment")),
    recipe("extension", "root", Some("subjectAltName=IP:127.0.0.1\n1.2.3.4=ASN1:UTF8String:x")),
    recipe(
        "extension-critical",
        "root",
        Some("subjectAltName=IP:127.0.0.1\n1.2.3.4=critical,ASN1:UTF8String:x"),
    ),
    recipe(
        "policies-critical",
        "root",
        Some("subjectAltName=IP:127.0.0.1\ncertificatePolicies=critical,1.2.3.4"),
    ),
    // Time, serial numbers.
    recipe("expired", "root", Some(USUAL)).words(EXPIRED),
    recipe("long-serial", "root", Some(USUAL)).words(&[
        "-sha256",
        "-set_serial",
        "0x1234567890123456789012345678901234567890123456789012",
    ]),
    recipe("zero-serial", "root", Some(USUAL)).words(&["-sha256", "-set_serial", "0"]),
    // Signatures.
    recipe("sha1", "root", Some(USUAL)).words(&["-sha1"]),
    recipe("sha384", "root", Some(USUAL)).words(&["-sha384"]),
    recipe("sha512", "root", Some(USUAL)).words(&["-sha512"]),
    recipe("ec-sha512", "root-ec", Some(USUAL)).words(&["-sha512"]),
    recipe("ec-sha1", "root-ec", Some(USUAL)).words(&["-sha1"]),
    recipe("pss-sha256", "root", Some(USUAL)).words(&[
        "-sha256",
        "-sigopt",
        "rsa_padding_mode:pss",
        "-sigopt",
        "rsa_pss_saltlen:digest",
    ]),
    // Authorities.
    recipe("of-p521", "root-p521", Some(USUAL)),
    recipe("of-p521-sha512", "root-p521", Some(USUAL)).words(&["-sha512"]),
    recipe("of-p224", "root-p224", Some(USUAL)),
    recipe("of-ed25519", "root-ed25519", Some(USUAL)).words(&[]),
    recipe("of-rsa1024", "root-rsa1024", Some(USUAL)),
    recipe("of-sha1", "root-sha1", Some(USUAL)),
    recipe("of-v1", "root-v1", Some(USUAL)),
    recipe("of-expired", "root-expired", Some(USUAL)),
    recipe("of-not-ca", "root-not-ca", Some(USUAL)),
    recipe("of-bare", "root-bare", Some(USUAL)),
];

/// More that is shown, of authorities that restrict what they sign.
pub const SHOWN_TOO: [Recipe; 5] = [
    recipe("of-no-sign", "root-no-sign", Some(USUAL)),
    recipe("of-server", "root-server", Some(USUAL)),
    recipe("of-short", "root-short", Some(USUAL)),
    recipe("of-rsa4096", "root-rsa4096", Some(USUAL)).key("rsa4096"),
    recipe("of-stranger", "stranger", Some(USUAL)),
];

/// All of them in one folder, and `ca.pem` with those that are believed.
pub struct Made {
    folder: PathBuf,
}

impl Made {
    /// Makes all of them.
    pub fn all(folder: &Path) -> Self {
        Self::those(folder, |_| true)
    }

    /// Makes those with these names alone.
    pub fn some(folder: &Path, names: &[&str]) -> Self {
        Self::those(folder, |recipe| names.contains(&recipe.name))
    }

    fn those(folder: &Path, is_wanted: impl Fn(&Recipe) -> bool) -> Self {
        let made = Self { folder: folder.to_owned() };
        let recipes = AUTHORITIES.iter().chain(&SHOWN).chain(&SHOWN_TOO);
        let recipes: Vec<&Recipe> = recipes.filter(|recipe| is_wanted(recipe)).collect();
        for (name, words) in [
            ("rsa1024", &["rsa", "-pkeyopt", "rsa_keygen_bits:1024"][..]),
            ("rsa2048", &["rsa", "-pkeyopt", "rsa_keygen_bits:2048"]),
            ("rsa3072", &["rsa", "-pkeyopt", "rsa_keygen_bits:3072"]),
            ("rsa4096", &["rsa", "-pkeyopt", "rsa_keygen_bits:4096"]),
            ("pss", &["rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"]),
            ("p224", &["ec", "-pkeyopt", "ec_paramgen_curve:secp224r1"]),
            ("p256", &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]),
            ("p384", &["ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]),
            ("p521", &["ec", "-pkeyopt", "ec_paramgen_curve:secp521r1"]),
            ("secp256k1", &["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"]),
            ("ed25519", &["ed25519"]),
            ("ed448", &["ed448"]),
        ] {
            if !recipes.iter().any(|recipe| recipe.key == name) {
                continue;
            }
            let key = made.path(&format!("{name}.key"));
            made.openssl(&[&["genpkey", "-out", &key, "-algorithm"], words].concat());
        }
        let mut listed = String::new();
        for recipe in recipes {
            made.certificate(recipe);
            if recipe.is_listed {
                listed += &fs::read_to_string(made.path(&format!("{}.pem", recipe.name))).unwrap();
            }
        }
        fs::write(made.path("ca.pem"), listed).unwrap();
        made
    }

    fn certificate(&self, recipe: &Recipe) {
        let key = self.key_of(recipe);
        let (request, out) = (self.path("request.pem"), self.path(&format!("{}.one", recipe.name)));
        let subject = format!("/O=stanby/CN={}", recipe.name);
        self.openssl(&["req", "-new", "-key", &key, "-subj", &subject, "-out", &request]);
        let mut words = vec!["x509", "-req", "-in", &request, "-out", &out, "-days", "30"];
        let (issuer, issuer_key);
        if recipe.issuer == recipe.name {
            words.extend(["-signkey", &key]);
        } else {
            let by = AUTHORITIES.iter().find(|it| it.name == recipe.issuer).unwrap();
            issuer = self.path(&format!("{}.one", by.name));
            issuer_key = self.key_of(by);
            words.extend(["-CA", &issuer, "-CAkey", &issuer_key]);
            if !recipe.words.contains(&"-set_serial") {
                words.push("-CAcreateserial");
            }
        }
        let file = self.path("extensions");
        if let Some(extensions) = recipe.extensions {
            fs::write(&file, extensions).unwrap();
            words.extend(["-extfile", &file]);
        }
        words.extend(recipe.words);
        self.openssl(&words);
        let read = |name: &str| fs::read_to_string(self.path(&format!("{name}.one"))).unwrap();
        let chain: String = recipe.chain.iter().map(|name| read(name)).collect();
        let whole = read(recipe.name) + &chain;
        fs::write(self.path(&format!("{}.pem", recipe.name)), whole).unwrap();
        fs::write(self.path(&format!("{}.chain", recipe.name)), chain).unwrap();
    }

    /// The words with which openssl shows a certificate as its own.
    pub fn identity(&self, recipe: &Recipe) -> Vec<String> {
        let file = |end: &str| self.path(&format!("{}.{end}", recipe.name));
        let mut words = vec!["-cert".to_owned(), file("pem"), "-key".into(), self.key_of(recipe)];
        if !recipe.chain.is_empty() {
            words.extend(["-cert_chain".to_owned(), file("chain")]);
        }
        words
    }

    /// The file of a certificate's key.
    pub fn key_of(&self, recipe: &Recipe) -> String {
        self.path(&format!("{}.key", recipe.key))
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn openssl(&self, words: &[&str]) {
        let done = Command::new("openssl").args(words).output();
        let done = done.expect("these tests need openssl: `apt-get install -y openssl`");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {}: {said}", words.join(" "));
    }
}
