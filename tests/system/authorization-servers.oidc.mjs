// The certified `oidc-provider` of npm, on loopback, for tests/system/authorization-servers.sh. Not a rig by itself.
//
// Started with a directory: DIR/npm holds the package, DIR/oidc.json the port, the issuer, the clients and the lifetimes of
// tokens in seconds. Refresh tokens rotate at every use, and the reuse of a spent one revokes its whole family.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , directory] = process.argv;
const { port, issuer, clients, lives } = JSON.parse(readFileSync(join(directory, 'oidc.json'), 'utf8'));
const at = join(directory, 'npm/node_modules/oidc-provider/lib/index.js');
const { default: Provider } = await import(pathToFileURL(at));

const provider = new Provider(issuer, {
  clients,
  cookies: { keys: ['only for this rig'] },
  scopes: ['openid', 'offline_access'],
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    userinfo: { enabled: true },
  },
  pkce: { required: () => true, methods: ['S256'] },
  rotateRefreshToken: true,
  ttl: {
    AccessToken: lives.access,
    ClientCredentials: lives.access,
    RefreshToken: 3600,
    Grant: 3600,
    Session: 3600,
    Interaction: 600,
    IdToken: lives.access,
    DeviceCode: 120,
    AuthorizationCode: 60,
  },
});
provider.on('server_error', (_, error) => console.error('server_error', error));
provider.listen(port, '127.0.0.1', () => console.log('listening'));
