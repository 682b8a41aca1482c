import { createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Certificate } from './certificates.ts';

/** Gives out the tokens of a docker-registry (distribution's token specification): JWTs signed with the key of `certificate`. */
export interface TokenServer extends AsyncDisposable {
  readonly url: string;
  /** `account scope` of every token that was given, account "-" for nobody. */
  readonly given: string[];
}

export const TOKEN_SERVICE = 'registry.test';
export const TOKEN_ISSUER = 'issuer.test';

/** Who has the password may pull everything; who shows none gets a token that is good for nothing; a wrong password is refused. */
export async function startTokenServer(certificate: Certificate, account: { username: string; password: string }): Promise<TokenServer> {
  const given: string[] = [];
  const wanted = `Basic ${Buffer.from(`${account.username}:${account.password}`).toString('base64')}`;
  const server = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? '/', 'http://token');
    const { authorization } = request.headers;
    if (authorization !== undefined && authorization !== wanted) {
      response.writeHead(401, { 'content-type': 'application/json' });
      return void response.end(JSON.stringify({ errors: [{ code: 'UNAUTHORIZED', message: 'no such account' }] }));
    }
    const scope = searchParams.get('scope') ?? '';
    const [type = '', name = '', actions = ''] = scope.split(':');
    const access = authorization === undefined || scope === '' ? [] : [{ type, name, actions: actions.split(',') }];
    given.push(`${authorization === undefined ? '-' : account.username} ${scope}`);
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ token: jwt(certificate, access), expires_in: 60 }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`,
    given,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function jwt({ certificate, key }: Certificate, access: readonly object[]): string {
  const nowS = Math.floor(Date.now() / 1000);
  const x5c = [new X509Certificate(readFileSync(certificate)).raw.toString('base64')];
  const claims = {
    iss: TOKEN_ISSUER,
    sub: 'test',
    aud: TOKEN_SERVICE,
    exp: nowS + 60,
    nbf: nowS - 10,
    iat: nowS,
    jti: randomUUID(),
    access,
  };
  const text = [{ typ: 'JWT', alg: 'ES256', x5c }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  const signature = sign('sha256', Buffer.from(text), { key: createPrivateKey(readFileSync(key)), dsaEncoding: 'ieee-p1363' });
  return `${text}.${signature.toString('base64url')}`;
}
