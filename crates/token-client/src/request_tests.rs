//! Parts that a request must and must not contain.

use super::*;
use crate::samples::profile;
use refreshd_secrets::RefreshToken;

const REDIRECT: &str = "http://127.0.0.1:9471/oauth/callback";

struct Bench {
    profile: Profile,
    secret: ClientSecret,
    scope: Vec<String>,
    fields: BTreeMap<String, Value>,
}

impl Bench {
    fn new(profile: Profile) -> Self {
        let scope = vec!["crm".to_owned(), "task".to_owned()];
        let fields = BTreeMap::from([("device_id".to_owned(), Value::from("d1"))]);
        Self {
            profile,
            secret: ClientSecret::new("p:ss word").unwrap(),
            scope,
            fields,
        }
    }

    fn asker(&self) -> RequestBuilder<'_> {
        RequestBuilder {
            profile: &self.profile,
            client_id: "my id",
            client_secret: Some(&self.secret),
            domain: Some("acme.example"),
            redirect_uri: Some(REDIRECT),
            scope: &self.scope,
            fields: &self.fields,
            random: "r4nd0m",
        }
    }

    fn parameters(&self, purpose: RequestKind<'_>) -> Vec<(String, String)> {
        self.asker()
            .request(&self.profile.token_url, purpose)
            .parameters
    }
}

fn plain() -> Profile {
    let authorize_url = Some("https://{domain}/authorize".to_owned());
    Profile {
        token_url: "https://{domain}/token".into(),
        authorize_url,
        ..Profile::blank()
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn refresh() -> Credential {
    Credential::Refresh(RefreshToken::new("r1").unwrap())
}

#[test]
fn the_client_says_who_it_is_in_the_way_of_the_profile() {
    let with = |client_authentication, basic_encoding| {
        let form = super::super::quirks::RequestQuirks {
            basic_encoding,
            ..Default::default()
        };
        let bench = Bench::new(Profile {
            client_authentication,
            request: form,
            ..plain()
        });
        let request = bench
            .asker()
            .request("https://{domain}/token", RequestKind::Renewal(&refresh()));
        assert_eq!(request.url, "https://acme.example/token");
        assert!(!format!("{request:?}").contains("p:ss"), "{request:?}");
        let names: Vec<_> = request
            .parameters
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        (request.authorization, names.join(" "))
    };
    let form = |way| with(way, BasicEncoding::Form);
    assert_eq!(
        form(ClientAuthentication::None),
        (None, "grant_type client_id refresh_token".into())
    );
    assert_eq!(
        form(ClientAuthentication::Body),
        (
            None,
            "grant_type client_id client_secret refresh_token".into()
        )
    );
    let encoded = || Some("Basic bXkraWQ6cCUzQXNzK3dvcmQ=".to_owned());
    assert_eq!(
        form(ClientAuthentication::Basic),
        (encoded(), "grant_type refresh_token".into())
    );
    assert_eq!(
        form(ClientAuthentication::BasicWithBody),
        (encoded(), "grant_type client_id refresh_token".into())
    );
    let raw = STANDARD.encode("my id:p:ss word");
    assert_eq!(
        with(ClientAuthentication::Basic, BasicEncoding::Raw).0,
        Some(format!("Basic {raw}"))
    );
}

#[test]
fn a_code_is_exchanged_with_its_verifier_and_redirect_uri() {
    let bench = Bench::new(plain());
    let (code, verifier) = (
        AuthorizationCode::new("c1").unwrap(),
        CodeVerifier::new("v1").unwrap(),
    );
    assert_eq!(
        bench.parameters(RequestKind::Code(&code, Some(&verifier))),
        pairs(&[
            ("grant_type", "authorization_code"),
            ("code", "c1"),
            ("redirect_uri", REDIRECT),
            ("code_verifier", "v1")
        ])
    );
    let bench = Bench::new(Profile {
        pkce: Pkce::None,
        ..profile()
    });
    assert!(
        bench
            .parameters(RequestKind::Code(&code, Some(&verifier)))
            .iter()
            .all(|(name, _)| name != "code_verifier")
    );
}

#[test]
fn the_address_to_authorize_at_has_a_state_a_challenge_and_no_verifier() {
    let bench = Bench::new(plain());
    // RFC 7636 appendix B.
    let verifier = CodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
    let url = bench
        .asker()
        .authorize_url("s1&", Some(&verifier), None)
        .unwrap();
    assert_eq!(
        url,
        "https://acme.example/authorize?response_type=code&client_id=my+id\
         &redirect_uri=http%3A%2F%2F127.0.0.1%3A9471%2Foauth%2Fcallback&scope=crm+task&state=s1%26\
         &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
    );
    let nowhere = RequestBuilder {
        domain: None,
        ..bench.asker()
    };
    assert_eq!(
        nowhere.authorize_url("s1", None, None),
        None,
        "no address is made up"
    );
}

#[test]
fn what_a_provider_does_differently_is_in_its_profile() {
    let map = |list: &[(&str, &str)]| pairs(list).into_iter().collect::<BTreeMap<_, _>>();
    let mut profile = plain();
    profile.client_authentication = ClientAuthentication::Body;
    profile.scope_separator = ",".into();
    profile.request.body = BodyEncoding::Json;
    profile.request.scope_in_renewal = true;
    profile.request.names = map(&[("client_id", "client_key"), ("refresh_token", "rt")]);
    profile.request.headers = map(&[("User-Agent", "app/1")]);
    profile.request.renewal_parameters = map(&[
        ("client_secret", ""),
        ("device_id", "{device_id}"),
        ("redirect_uri", "{redirect_uri}"),
        ("nothing", "{unknown}"),
        ("state", "x-{random}"),
    ]);
    let bench = Bench::new(profile);
    let credential = refresh();
    let request = bench
        .asker()
        .request(&bench.profile.token_url, RequestKind::Renewal(&credential));
    assert_eq!(
        request.parameters,
        pairs(&[
            ("grant_type", "refresh_token"),
            ("client_key", "my id"),
            ("rt", "r1"),
            ("scope", "crm,task"),
            ("device_id", "d1"),
            ("redirect_uri", REDIRECT),
            ("state", "x-r4nd0m")
        ])
    );
    assert_eq!(
        (request.body, request.headers),
        (BodyEncoding::Json, pairs(&[("User-Agent", "app/1")]))
    );
}

#[test]
fn a_client_that_needs_no_person_and_a_device_ask_for_their_scope() {
    let bench = Bench::new(plain());
    assert_eq!(
        bench.parameters(RequestKind::Renewal(&Credential::Client)),
        pairs(&[("grant_type", "client_credentials"), ("scope", "crm task")])
    );
    assert_eq!(
        bench.parameters(RequestKind::DeviceCodes),
        pairs(&[("scope", "crm task")])
    );
    let bench = Bench::new(Profile {
        client_authentication: ClientAuthentication::None,
        ..plain()
    });
    let code = DeviceCode::new("d").unwrap();
    assert_eq!(
        bench.parameters(RequestKind::DeviceToken(&code)),
        pairs(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", "my id"),
            ("device_code", "d")
        ])
    );
    let get = Bench::new(Profile {
        method: Method::Get,
        ..plain()
    });
    let token = RefreshToken::new("r1").unwrap();
    let revocation = get.asker().request(
        "https://a/revoke",
        RequestKind::Revocation(Token::Refresh(&token)),
    );
    assert_eq!(revocation.method, Method::Post, "RFC 7009 knows no other");
    assert_eq!(
        revocation.parameters,
        pairs(&[("token", "r1"), ("token_type_hint", "refresh_token")])
    );
}
