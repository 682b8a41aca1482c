import { expect } from 'chai';
import { ClassifiedError } from '../../../src/base/errors.ts';
import { ask } from '../../../src/os/http-client.ts';
import { HttpServers } from '../../lib/http-servers.ts';

const HOST = { ca: [], client: [], skipVerify: false, connectTimeoutMs: 5000 };

describe('os/http-client', () => {
  const servers = new HttpServers();
  let said: string;
  let url: string;

  beforeEach(async () => {
    url = `http://${(await servers.startRaw((socket) => socket.write(said))).host}`;
  });
  afterEach(() => servers.end());

  const failure = async (signal = new AbortController().signal): Promise<ClassifiedError> => {
    const error = await ask(HOST, { method: 'GET', url: `${url}/v2/`, headers: {}, signal }).catch((e: unknown) => e);
    expect(error).to.be.instanceOf(ClassifiedError).with.property('kind', 'unavailable');
    return error as ClassifiedError;
  };

  it('does not wait for a host that changes to a protocol nobody asked for', async () => {
    said = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n';
    expect((await failure()).message).to.equal(`${url}: the connection was closed`);
  });

  it('tells of what is no HTTP, and of an end by who asked', async () => {
    said = 'SSH-2.0-x\r\n';
    expect((await failure()).message).to.match(/Parse Error/);
    said = '';
    expect((await failure(AbortSignal.timeout(50))).message).to.equal(`${url}: the request was aborted`);
    expect((await failure(AbortSignal.abort())).message).to.equal(`${url}: the request was aborted`);
  });
});
