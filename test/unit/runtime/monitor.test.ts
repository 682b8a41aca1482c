import { expect } from 'chai';
import { monitorArgv, parseSyncLine } from '../../../src/runtime/monitor.ts';
import type { ContainerIo } from '../../../src/runtime/runtime.ts';
import type { ContainerFiles } from '../../../src/runtime/state-dir.ts';

const files = {
  dir: '/s/c/x',
  initPid: '/s/c/x/init.pid',
  monitorPid: '/s/c/x/monitor.pid',
  runtimeLog: '/s/c/x/runtime.log',
} as ContainerFiles;
const options = {
  conmonPath: '/bin/conmon',
  runtimePath: '/bin/runc',
  runtimeArgs: ['--root=/s/root'],
  socketsDir: '/s/s',
  ownConsoleDir: true,
  cgroup: undefined,
};

function argv(io: Partial<ContainerIo>): string {
  const full = { logPath: '/log', tty: false, stdin: false, stdinOnce: false, ...io };
  return monitorArgv(options, files, { id: 'x', bundle: '/b', io: full, cgroupParent: '' }).join(' ');
}

describe('monitorArgv', () => {
  it('names the container, its files and the runtime with its arguments', () => {
    expect(argv({})).to.match(/^\/bin\/conmon --api-version 1 -c x -u x -n x -b \/b -r \/bin\/runc --runtime-arg=--root=\/s\/root /);
    expect(argv({})).to.include('-l k8s-file:/log').and.include('--no-sync-log').and.include('--persist-dir /s/c/x');
    expect(argv({ logPath: undefined })).to.include('-l none');
  });

  it('asks for stdin and terminal only when the container does', () => {
    expect(argv({})).to.not.match(/ -[ti]( |$)|leave-stdin/);
    expect(argv({ tty: true })).to.match(/ -t( |$)/);
    expect(argv({ stdin: true })).to.match(/ -i --leave-stdin-open$/);
    expect(argv({ stdin: true, stdinOnce: true })).to.match(/ -i$/);
  });
});

describe('parseSyncLine', () => {
  it('reads pid or error', () => {
    expect(parseSyncLine('{"data": 123}')).to.deep.equal({ pid: 123, message: '' });
    expect(parseSyncLine('{"pid": 123}')).to.deep.equal({ pid: 123, message: '' });
    expect(parseSyncLine('{"data": -1, "message": "runc create failed: \\"x\\""}')).to.deep.equal({
      pid: -1,
      message: 'runc create failed: "x"',
    });
  });

  it('takes what is not JSON', () => {
    expect(parseSyncLine('{"data": -1, "message": "a\u0001b \\q"}').pid).to.equal(-1);
    expect(parseSyncLine('{"data": -1, "message": "a \\q"}').message).to.equal('a \\q');
    expect(parseSyncLine('nonsense')).to.deep.equal({ pid: -1, message: 'nonsense' });
  });
});
