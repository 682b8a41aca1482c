/** One documented setting. `key` is its dotted path in the file; `flag` the option of `gantry serve` that wins over it. */
export interface Setting {
  readonly key: string;
  readonly type: 'path' | 'string' | 'integer' | 'strings' | 'paths';
  readonly default: string | number | readonly string[];
  readonly flag?: string;
  readonly oneOf?: readonly string[];
  readonly description: string;
}

/** Every setting but the handlers'. The reader, the flags and the reference are made from this list. */
export const SETTINGS: readonly Setting[] = [
  { key: 'root', type: 'path', default: '/var/lib/gantry', flag: 'root', description: 'what must last: content, snapshots, records' },
  { key: 'state', type: 'path', default: '/run/gantry', flag: 'state', description: 'what ends with the boot: sockets, mounts, bundles' },
  {
    key: 'socket',
    type: 'path',
    default: '',
    flag: 'socket',
    description: 'the CRI socket; by default gantry.sock in the state directory',
  },
  {
    key: 'streaming.address',
    type: 'string',
    default: '127.0.0.1',
    flag: 'streaming-address',
    description: 'IP address where exec, attach and port-forward are served',
  },
  { key: 'streaming.port', type: 'integer', default: 0, flag: 'streaming-port', description: '0: any free port' },
  { key: 'streaming.tls_cert', type: 'path', default: '', description: 'PEM certificate (chain): streams are served over TLS' },
  { key: 'streaming.tls_key', type: 'path', default: '', description: 'PEM key of that certificate' },
  { key: 'metrics.address', type: 'string', default: '127.0.0.1', description: 'where Prometheus metrics are served, over plain HTTP' },
  { key: 'metrics.port', type: 'integer', default: 0, flag: 'metrics-port', description: '0: metrics are not served' },
  {
    key: 'cni.conf_dir',
    type: 'path',
    default: '/etc/cni/net.d',
    flag: 'cni-conf-dir',
    description: 'CNI configurations; the first valid one in lexical order is used',
  },
  {
    key: 'cni.bin_dirs',
    type: 'paths',
    default: ['/opt/cni/bin', '/usr/lib/cni'],
    flag: 'cni-bin-dir',
    description: 'where CNI plugins are looked for',
  },
  {
    key: 'cni.status_grace_seconds',
    type: 'integer',
    default: 60,
    description: 'how long a network that was ready may fail its STATUS before NetworkReady is false',
  },
  {
    key: 'sandbox.warm',
    type: 'integer',
    default: 8,
    flag: 'warm-sandboxes',
    description: 'sandboxes kept ready for pods to come, at most; each has an address of the pod network; 0: none',
  },
  {
    key: 'sandbox.warm_burst',
    type: 'integer',
    default: 40,
    description: 'the same for half a minute after a burst of pods that found too few',
  },
  {
    key: 'cdi.spec_dirs',
    type: 'paths',
    default: ['/etc/cdi', '/var/run/cdi'],
    flag: 'cdi-spec-dir',
    description: 'where CDI specs are looked for; later directories win',
  },
  {
    key: 'registry.hosts_dir',
    type: 'path',
    default: '/etc/gantry/certs.d',
    flag: 'registry-hosts-dir',
    description: 'one directory per registry host with a hosts.toml',
  },
  {
    key: 'image.snapshotter',
    type: 'string',
    default: 'auto',
    oneOf: ['overlay', 'erofs', 'auto'],
    flag: 'snapshotter',
    description: 'how layers are kept: unpacked, or as tars that the kernel mounts by an index; auto takes erofs where it works',
  },
  { key: 'image.pinned', type: 'strings', default: [], description: 'references that are never collected; a trailing * matches the rest' },
  {
    key: 'image.pause_image',
    type: 'string',
    default: 'registry.k8s.io/pause:3.10.1',
    flag: 'pause-image',
    description: 'for pods whose containers share a PID namespace',
  },
  {
    key: 'image.max_concurrent_downloads',
    type: 'integer',
    default: 6,
    description: 'connections that fetch layers at the same time, of all pulls together; a large layer takes what others leave',
  },
  {
    key: 'image.compressed_blobs',
    type: 'string',
    default: 'keep',
    oneOf: ['keep', 'discard'],
    description:
      "what becomes of layers' blobs that are unpacked: what serves them to other nodes needs them, and so does a repair without a registry",
  },
  {
    key: 'image.verify',
    type: 'string',
    default: 'quick',
    oneOf: ['off', 'quick', 'full'],
    description:
      'search for damage in the background after the start: by sizes when the machine went down under the daemon, or always by digests; only images that are hit are pulled again',
  },
  {
    key: 'cgroup.driver',
    type: 'string',
    default: 'cgroupfs',
    flag: 'cgroup-driver',
    oneOf: ['cgroupfs', 'systemd'],
    description: "must be kubelet's",
  },
  { key: 'default_handler', type: 'string', default: 'runc', flag: 'default-handler', description: 'the handler of pods that name none' },
  { key: 'conmon.path', type: 'string', default: 'conmon', description: 'the monitor of every container: a path or a name on PATH' },
  {
    key: 'operation.patience_seconds',
    type: 'integer',
    default: 120,
    description:
      'what a client that tells no longer deadline is taken to wait for; a pod or container that nobody asks for again within twice that is torn down',
  },
  {
    key: 'log.level',
    type: 'string',
    default: 'info',
    flag: 'log-level',
    oneOf: ['trace', 'debug', 'info', 'warn', 'error'],
    description: '',
  },
  { key: 'log.format', type: 'string', default: 'json', flag: 'log-format', oneOf: ['json', 'text'], description: '' },
];

/** Of each `[handlers.<name>]`. */
export const HANDLER_SETTINGS: readonly Setting[] = [
  { key: 'type', type: 'string', default: 'oci', oneOf: ['oci'], description: 'the driver; oci is runc, crun and runsc under conmon' },
  { key: 'path', type: 'string', default: '', description: 'the runtime: a path or a name on PATH; by default the name of the handler' },
  { key: 'args', type: 'strings', default: [], description: 'global arguments, before the verb' },
];

/** The reference as a markdown table. */
export function reference(): string {
  const row = ({ key, type, default: value, flag, oneOf, description }: Setting, prefix = ''): string => {
    const about = [description, oneOf && oneOf.length > 1 ? `one of ${oneOf.join(', ')}` : ''].filter(Boolean).join('; ');
    return `| \`${prefix}${key}\` | ${type} | ${JSON.stringify(value)} | ${flag === undefined ? '' : `\`--${flag}\``} | ${about} |`;
  };
  return [
    '| key | type | default | flag | |',
    '|---|---|---|---|---|',
    ...SETTINGS.map((setting) => row(setting)),
    ...HANDLER_SETTINGS.map((setting) => row(setting, 'handlers.<name>.')),
  ].join('\n');
}
