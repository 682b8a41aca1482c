import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** PEM files of a certificate and its key. */
export interface Certificate {
  readonly certificate: string;
  readonly key: string;
}

/** An authority of one test, made with openssl: its own self-signed certificate and those that it signs. */
export class Authority implements Certificate {
  readonly certificate: string;
  readonly key: string;
  readonly #dir: string;

  constructor(dir: string, name: string) {
    mkdirSync(dir, { recursive: true });
    this.#dir = dir;
    this.certificate = join(dir, `${name}.crt`);
    this.key = join(dir, `${name}.key`);
    openssl('req', '-x509', ...NEW_KEY, '-keyout', this.key, '-out', this.certificate, '-days', '2', '-subj', `/CN=${name}`);
  }

  /** For a client, or a server on 127.0.0.1 or `host`. */
  sign(name: string, { host = 'localhost' } = {}): Certificate {
    const [certificate, key, request, extensions] = ['crt', 'key', 'csr', 'ext'].map((suffix) => join(this.#dir, `${name}.${suffix}`)) as [
      string,
      string,
      string,
      string,
    ];
    writeFileSync(extensions, `subjectAltName=IP:127.0.0.1,DNS:${host}\nextendedKeyUsage=serverAuth,clientAuth\n`);
    openssl('req', ...NEW_KEY, '-keyout', key, '-out', request, '-subj', `/CN=${name}`);
    const by = ['-CA', this.certificate, '-CAkey', this.key, '-CAcreateserial'];
    openssl('x509', '-req', '-in', request, ...by, '-out', certificate, '-days', '2', '-extfile', extensions);
    return { certificate, key };
  }
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

const openssl = (...args: string[]): void => void execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
