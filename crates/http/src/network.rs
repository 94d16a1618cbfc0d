//! How requests reach their servers: the proxy and the hosts without it, the certificate authorities, the user agent.
//!
//! Must not send anything, nor show the proxy's user or password: a proxy is shown as its host and port.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use url::{Host, Url};

use crate::{TlsError, USER_AGENT};
use refreshd_secrets::ProxyAddress;
use refreshd_secrets::mask::is_loopback;

/// How the requests of an app or a channel reach their servers. The default connects directly.
#[derive(Debug, Default)]
pub struct Network {
    settings: NetworkSettings,
    /// Made once: it reads the authorities of the system.
    tls: OnceLock<ClientConfig>,
}

/// Settings of a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The proxy; `None`: connects directly.
    pub proxy: Option<Arc<Proxy>>,
    /// Hosts that are reached without it.
    pub direct: Arc<DirectHosts>,
    /// Certificate authorities besides the system's.
    pub authorities: Authorities,
    /// The header `User-Agent`.
    pub user_agent: HeaderValue,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            proxy: None,
            direct: Arc::default(),
            authorities: Authorities::default(),
            user_agent: HeaderValue::from_static(USER_AGENT),
        }
    }
}

impl From<NetworkSettings> for Network {
    fn from(settings: NetworkSettings) -> Self {
        Self {
            settings,
            tls: OnceLock::new(),
        }
    }
}

impl Network {
    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &NetworkSettings {
        &self.settings
    }

    /// TLS configuration that trusts the system's certificate authorities, or those of `SSL_CERT_FILE`, and the network's
    /// own. Reads files the first time.
    ///
    /// # Errors
    /// If there are no certificate authorities; it is tried again the next time.
    pub fn tls(&self) -> Result<ClientConfig, TlsError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let extra = self.settings.authorities.certificates().cloned();
        // The verifier that hyper-rustls takes too, which has no way to add authorities.
        let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))?;
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(self.tls.get_or_init(|| tls).clone())
    }

    /// The proxy for requests to a host; `None`: it is reached directly, as is always this machine.
    #[must_use]
    pub fn proxy_to(&self, host: &str) -> Option<&Arc<Proxy>> {
        let NetworkSettings { proxy, direct, .. } = &self.settings;
        proxy.as_ref().filter(|_| !direct.covers(host))
    }

    /// For the middle of a sentence about the server of a URL: ` through the proxy HOST:PORT`, or nothing.
    #[must_use]
    pub fn way_to(&self, url: &str) -> String {
        let host = url.parse::<Uri>().ok();
        let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
        let proxy = self.proxy_to(host);
        proxy
            .map(|proxy| format!(" through the proxy {proxy}"))
            .unwrap_or_default()
    }
}

/// A proxy. Displays and debugs as `HOST:PORT`.
pub struct Proxy {
    address: ProxyAddress,
    name: String,
    intercept: Intercept,
}

/// Why a text is not the address of a proxy; for a sentence that begins with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    /// Another scheme, or none.
    #[error("must begin with http:// or socks5h://")]
    Scheme,
    /// TLS to the proxy.
    #[error(
        "must begin with http:// or socks5h://: TLS to the proxy itself is not supported, TLS to the servers passes through it"
    )]
    Https,
    /// SOCKS with names that are resolved here.
    #[error("must begin with socks5h://, with which the proxy resolves the names of hosts")]
    Socks,
    /// No host.
    #[error("holds no host: write http://HOST:PORT")]
    Host,
    /// A path, a query or a fragment.
    #[error("must end after the host and the port")]
    Path,
    /// A user or a password that is too long, or not percent-encoded.
    #[error(
        "holds a user or a password that cannot be used: characters such as @ : / # are percent-encoded, and SOCKS takes 255 bytes of each"
    )]
    Login,
    /// Anything else.
    #[error("must be an address such as http://HOST:PORT")]
    NoUrl,
}

impl Proxy {
    /// Parses `http://[USER:PASSWORD@]HOST[:PORT]` or `socks5h://…`. The usual ports are 80 and 1080.
    ///
    /// # Errors
    /// [`ProxyAddressError`], which quotes nothing.
    pub fn parse(text: &str) -> Result<Self, ProxyAddressError> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(ProxyAddressError::Scheme);
        };
        let usual_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "socks5h" => 1080,
            "https" => return Err(ProxyAddressError::Https),
            "socks" | "socks4" | "socks4a" | "socks5" => return Err(ProxyAddressError::Socks),
            _ => return Err(ProxyAddressError::Scheme),
        };
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (login, place),
            None => ("", rest),
        };
        if login.contains(['/', '?', '#', '@']) {
            return Err(ProxyAddressError::Login);
        }
        if place.is_empty() || place.starts_with([':', '/', '?', '#']) {
            return Err(ProxyAddressError::Host);
        }
        // In a scheme that the parser knows, a host gets its canonical form.
        let parsed = Url::parse(&format!("http://{place}")).map_err(|error| match error {
            url::ParseError::EmptyHost => ProxyAddressError::Host,
            _ => ProxyAddressError::NoUrl,
        })?;
        if !matches!(parsed.path(), "" | "/")
            || parsed.query().is_some()
            || parsed.fragment().is_some()
        {
            return Err(ProxyAddressError::Path);
        }
        let host = parsed.host_str().ok_or(ProxyAddressError::Host)?;
        let has_port_80 = place.trim_end_matches('/').ends_with(":80");
        let port = parsed
            .port()
            .unwrap_or(if has_port_80 { 80 } else { usual_port });
        let name = format!("{host}:{port}");
        let at = if login.is_empty() { "" } else { "@" };
        let address = format!("{}://{login}{at}{name}", scheme.to_ascii_lowercase());
        // A text that the matcher does not understand would send everything directly.
        let intercept = Matcher::builder()
            .all(address.as_str())
            .build()
            .intercept(&Uri::from_static("https://host.invalid/"))
            .ok_or(ProxyAddressError::Login)?;
        let too_long = |(user, password): (&str, &str)| user.len() > 255 || password.len() > 255;
        if intercept.raw_auth().is_some_and(too_long) {
            return Err(ProxyAddressError::Login);
        }
        let address = ProxyAddress::new(&address).ok_or(ProxyAddressError::NoUrl)?;
        Ok(Self {
            address,
            name,
            intercept,
        })
    }

    /// The whole address, with user and password.
    pub(crate) const fn address(&self) -> &ProxyAddress {
        &self.address
    }

    /// What a text must not repeat: the password as it is written, and what is sent of it.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let written = self.address.expose().rsplit_once('@');
        let password = written.and_then(|(login, _)| login.rsplit_once(':'));
        let sent = self.intercept.basic_auth();
        let sent = sent.and_then(|sent| sent.to_str().ok()?.strip_prefix("Basic "));
        let password = password.map(|(_, password)| password);
        password.into_iter().chain(sent)
    }

    /// Its address without user and password, and how it is told them.
    pub(crate) const fn intercept(&self) -> &Intercept {
        &self.intercept
    }

    pub(crate) fn is_socks(&self) -> bool {
        self.intercept.uri().scheme_str() == Some("socks5h")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.name)
    }
}

impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        self.address.is(&other.address)
    }
}

impl Eq for Proxy {}

/// Hosts that are reached without a proxy: names with the names below them, addresses and networks (CIDR).
pub struct DirectHosts {
    list: String,
    matcher: Matcher,
}

/// Why a text is no entry of `no_proxy`; for a sentence that begins with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DirectHostError {
    /// A slash, and no network.
    #[error("holds a network that is none: write an address and its bits, as 10.0.0.0/8")]
    Network,
    /// A scheme.
    #[error("takes hosts without a scheme and a path")]
    Url,
    /// A port.
    #[error("takes hosts without a port")]
    Port,
    /// A wildcard.
    #[error("takes no wildcard but a lone *: example.org is every host below it too")]
    Wildcard,
    /// Anything else.
    #[error("takes hosts, .suffixes, addresses and networks such as 10.0.0.0/8")]
    Other,
}

impl DirectHosts {
    /// Collects entries of [`direct_host`].
    pub fn new<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Self {
        let mut list = String::new();
        for entry in entries {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(entry.as_ref());
        }
        let matcher = Matcher::builder()
            .all("http://proxy.invalid")
            .no(list.as_str())
            .build();
        Self { list, matcher }
    }

    fn covers(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        if Host::parse(host).is_ok_and(|host| is_loopback(&host)) {
            return true;
        }
        format!("http://{host}/")
            .parse()
            .is_ok_and(|uri| self.matcher.intercept(&uri).is_none())
    }
}

/// An entry of `no_proxy` in canonical form.
///
/// # Errors
/// [`DirectHostError`], which quotes nothing.
pub fn direct_host(text: &str) -> Result<String, DirectHostError> {
    let text = text.trim();
    if text.contains("://") {
        return Err(DirectHostError::Url);
    }
    let address = |text: &str| text.parse::<std::net::IpAddr>().ok();
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    if let Some(ip) = address(inner) {
        return Ok(ip.to_string());
    }
    if let Some((ip, bits)) = text.split_once('/') {
        let most = match address(ip) {
            Some(std::net::IpAddr::V4(_)) => 32,
            Some(std::net::IpAddr::V6(_)) => 128,
            None if ip.chars().any(char::is_alphabetic) => return Err(DirectHostError::Url),
            None => return Err(DirectHostError::Network),
        };
        let bits = bits.parse::<u8>().ok().filter(|bits| *bits <= most);
        return bits
            .map(|bits| format!("{ip}/{bits}"))
            .ok_or(DirectHostError::Network);
    }
    if text == "*" {
        return Ok(text.to_owned());
    }
    if text.contains('*') {
        return Err(DirectHostError::Wildcard);
    }
    let (dot, name) = match text.strip_prefix('.') {
        Some(name) => (".", name),
        None => ("", text),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Some((_, port)) = name.rsplit_once(':')
        && port.chars().all(|c| c.is_ascii_digit())
    {
        return Err(DirectHostError::Port);
    }
    let fits = |name: &String| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    match Host::parse(name) {
        Ok(Host::Domain(name)) if fits(&name) => Ok(format!("{dot}{name}")),
        _ => Err(DirectHostError::Other),
    }
}

impl Default for DirectHosts {
    fn default() -> Self {
        Self::new::<&str>([])
    }
}

impl fmt::Debug for DirectHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectHosts({})", self.list)
    }
}

impl PartialEq for DirectHosts {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for DirectHosts {}

/// Certificate authorities besides the system's.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

/// Why a file is no bundle of certificates; for a sentence that begins with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// No PEM block of a certificate.
    #[error("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// A private key alone.
    #[error("holds a private key and no certificate: name the file of the authority's certificate")]
    Key,
    /// A block that is cut, or is no Base64.
    #[error("holds PEM that is damaged or cut")]
    Damaged,
    /// The certificate of this number, from 1, is not X.509.
    #[error("holds a certificate that cannot be read (number {0})")]
    Certificate(usize),
}

impl Authorities {
    /// Reads a PEM bundle.
    ///
    /// # Errors
    /// [`AuthoritiesError`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, AuthoritiesError> {
        if pem.iter().all(u8::is_ascii_whitespace) {
            return Err(AuthoritiesError::Empty);
        }
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|_| AuthoritiesError::Damaged)?;
        if certificates.is_empty() {
            let text = String::from_utf8_lossy(pem);
            return Err(if text.contains("PRIVATE KEY-----") {
                AuthoritiesError::Key
            } else if text.contains("-----BEGIN CERTIFICATE-----") {
                AuthoritiesError::Damaged
            } else {
                AuthoritiesError::NoCertificate
            });
        }
        let mut store = RootCertStore::empty();
        for (at, certificate) in certificates.iter().enumerate() {
            store
                .add(certificate.clone())
                .map_err(|_| AuthoritiesError::Certificate(at + 1))?;
        }
        Ok(Self(certificates.into()))
    }

    /// The certificates in DER.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.0.iter()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

/// Values that are made once for each [`Network`] and dropped after it, such as clients with their connections. A reload
/// makes new ones, also of the certificate authorities.
pub struct PerNetwork<T>(Arc<Mutex<Vec<OfNetwork<T>>>>);

/// A value and its network.
type OfNetwork<T> = (Weak<Network>, T);

impl<T: Clone> PerNetwork<T> {
    /// The value of this network, which `make` makes the first time.
    ///
    /// # Errors
    /// Those of `make`; it is tried again the next time.
    pub fn get<E>(
        &self,
        network: &Arc<Network>,
        make: impl FnOnce(&Arc<Network>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_this = |(of, _): &&OfNetwork<T>| std::ptr::eq(of.as_ptr(), &**network);
        if let Some((_, value)) = known.iter().find(is_this) {
            return Ok(value.clone());
        }
        let value = make(network)?;
        known.retain(|(of, _)| of.strong_count() > 0);
        known.push((Arc::downgrade(network), value.clone()));
        Ok(value)
    }
}

impl<T> Clone for PerNetwork<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for PerNetwork<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_shown_without_its_user_and_password() {
        for (text, name) in [
            ("http://proxy.corp:3128", "proxy.corp:3128"),
            ("http://Proxy.Corp/", "proxy.corp:80"),
            ("socks5h://10.0.0.1", "10.0.0.1:1080"),
            ("socks5h://10.0.0.1:80", "10.0.0.1:80"),
            ("HTTP://u:hunter2@proxy.corp:3128", "proxy.corp:3128"),
            ("socks5h://u:hunter%402@[fd00::1]:1081", "[fd00::1]:1081"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(proxy.to_string(), name, "{text}");
            let network = Network::from(NetworkSettings {
                proxy: Some(Arc::new(proxy)),
                ..NetworkSettings::default()
            });
            let shown = format!("{network:?}");
            assert!(shown.contains(name) && !shown.contains("hunter"), "{shown}");
        }
        let proxy = Proxy::parse("http://u:hunter%402@p").unwrap();
        let secrets: Vec<_> = proxy.secrets().collect();
        assert_eq!(secrets, ["hunter%402", "dTpodW50ZXJAMg=="]);
        assert_eq!(Proxy::parse("http://p").unwrap().secrets().count(), 0);
        let socks = Proxy::parse("socks5h://u:hunter%402@p").unwrap();
        assert_eq!(socks.intercept().raw_auth(), Some(("u", "hunter@2")));
    }

    #[test]
    fn what_is_no_proxy_is_told_from_each_other() {
        use ProxyAddressError as Wrong;
        let long = format!("socks5h://u:{}@p:1", "x".repeat(256));
        for (text, wrong) in [
            ("proxy.corp:3128", Wrong::Scheme),
            ("ftp://proxy.corp", Wrong::Scheme),
            ("https://proxy.corp", Wrong::Https),
            ("socks5://proxy.corp", Wrong::Socks),
            ("http://", Wrong::Host),
            ("http://:3128", Wrong::Host),
            ("http://u:hunter2@", Wrong::Host),
            ("http://u:hunter2@:3128", Wrong::Host),
            ("http://u:hunt/er2@proxy.corp:3128", Wrong::Login),
            ("http://u:hunt@er2@proxy.corp:3128", Wrong::Login),
            (long.as_str(), Wrong::Login),
            ("http://proxy.corp:3128/pac", Wrong::Path),
            ("http://proxy.corp:port", Wrong::NoUrl),
        ] {
            let error = Proxy::parse(text).unwrap_err();
            assert_eq!(error, wrong, "{text}");
            assert!(!error.to_string().contains("hunt"));
        }
    }

    #[test]
    fn hosts_are_reached_directly_by_name_suffix_address_and_network() {
        let entries = [
            "corp.example",
            ".lan",
            "192.0.2.7",
            "10.0.0.0/8",
            "fd00::/8",
        ];
        let network = Network::from(NetworkSettings {
            proxy: Proxy::parse("http://p:1").ok().map(Arc::new),
            direct: Arc::new(DirectHosts::new(
                entries.map(|entry| direct_host(entry).unwrap()),
            )),
            ..NetworkSettings::default()
        });
        for host in [
            "corp.example",
            "sso.CORP.example",
            "sso.corp.example.",
            "a.lan",
            "192.0.2.7",
            "10.1.2.3",
            "[fd00::1]",
            "localhost",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "x.localhost",
        ] {
            assert!(network.proxy_to(host).is_none(), "{host}");
        }
        for host in [
            "oauth.bitrix.info",
            "evilcorp.example",
            "192.0.2.70",
            "11.0.0.1",
            "[fe80::1]",
        ] {
            assert!(network.proxy_to(host).is_some(), "{host}");
        }
        let all = DirectHosts::new(["*"]);
        assert!(all.covers("oauth.bitrix.info"));
    }

    #[test]
    fn what_is_no_host_is_told_from_each_other() {
        use DirectHostError as Wrong;
        for (text, wrong) in [
            ("https://corp.example", Wrong::Url),
            ("corp.example/path", Wrong::Url),
            ("10.0.0.0/33", Wrong::Network),
            ("10.0.0/8", Wrong::Network),
            ("corp.example:443", Wrong::Port),
            ("*.corp.example", Wrong::Wildcard),
            ("a b", Wrong::Other),
            ("", Wrong::Other),
            ("a,b", Wrong::Other),
        ] {
            assert_eq!(direct_host(text), Err(wrong), "{text}");
        }
        assert_eq!(direct_host("ПОРТАЛ.рф").unwrap(), "xn--80awhdgm.xn--p1ai");
        assert_eq!(direct_host("[::1]").unwrap(), "::1");
    }

    #[test]
    fn what_is_no_bundle_of_certificates_is_told_from_each_other() {
        use AuthoritiesError as Wrong;
        let block = |what: &str, inner: &str| {
            format!("-----BEGIN {what}-----\n{inner}\n-----END {what}-----\n")
        };
        for (pem, wrong) in [
            (" \n".to_owned(), Wrong::Empty),
            ("certificate".to_owned(), Wrong::NoCertificate),
            (block("PRIVATE KEY", "AAAA"), Wrong::Key),
            (block("CERTIFICATE", "AAAA"), Wrong::Certificate(1)),
            (block("CERTIFICATE", "!"), Wrong::Damaged),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA".to_owned(),
                Wrong::Damaged,
            ),
        ] {
            assert_eq!(Authorities::from_pem(pem.as_bytes()), Err(wrong), "{pem}");
        }
    }

    #[test]
    fn a_value_is_made_once_for_each_network() {
        let values = PerNetwork::default();
        let (one, other) = (Arc::new(Network::default()), Arc::new(Network::default()));
        let get = |network: &Arc<Network>, made| values.get(network, |_| Ok::<_, ()>(made));
        assert_eq!(get(&one, 1), Ok(1));
        assert_eq!((get(&other, 2), get(&one, 3)), (Ok(2), Ok(1)));
        drop(one);
        assert_eq!(get(&Arc::new(Network::default()), 4), Ok(4));
        assert_eq!(values.0.lock().unwrap().len(), 2, "the first one is gone");
        assert_eq!(values.get(&other, |_| Err(())), Ok(2));
    }
}
