/**
 * `node:http` and `node:tls` for this daemon. An import of either evaluates all of its exports, and some are made when somebody asks: WebSocket brings undici
 * and the web streams, `rootCertificates` parses every one. The daemon uses neither unless it must; without them it takes 4 MiB less (PSS, Node 26).
 */
const http = process.getBuiltinModule('node:http');

export const { Agent, createServer, request, STATUS_CODES } = http;

/** The certificates that Node brings along, PEM. */
export const rootCertificates = (): readonly string[] => process.getBuiltinModule('node:tls').rootCertificates;
