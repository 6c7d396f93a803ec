// The HTTP endpoint: limits, one log line and one measurement per request, errors as problems, and a quiet
// end.
import { randomUUID } from "node:crypto";
import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from "fastify";
import type { Config } from "./config.ts";
import type { Db } from "./db.ts";
import { AppError, isRlsRefusal } from "./errors.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { problemOf } from "./problem.ts";
import { probes, type Readiness } from "./routes/probes.ts";
import { tenantApi } from "./routes/v1.ts";

/** What the endpoint stands on. `llm` names the model whose prices an analysis asked for here must fit. */
export type HttpDeps = {
  db: Db;
  config: Pick<Config<"api">, "jwtSecretKey">;
  log: Log;
  metrics: Metrics;
  llm: { provider: string; model: string };
  ready: () => Promise<Readiness>;
};

/** What every endpoint stands on: liveness, readiness, metrics. */
export type ProbeDeps = Pick<HttpDeps, "log" | "metrics" | "ready">;

/** The endpoint, not yet listening. */
export type HttpApp = {
  app: FastifyInstance;
  /**
   * From now on `/readyz` says 503 and connections end with their answer; `app.close()` then waits for the
   * last.
   */
  drain(): void;
};

const BODY_BYTES_MAX = 64 * 1024;
const HEADER_BYTES_MAX = 16 * 1024;
const HEADERS_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 15_000;
/** How late the two above may be. */
const CHECKING_INTERVAL_MS = 2_000;
/** Longer than a wait for a connection and a statement together, each of which has a deadline of its own. */
const HANDLER_TIMEOUT_MS = 25_000;

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const UNPARSED_STATUS: Record<string, number> = { ERR_HTTP_REQUEST_TIMEOUT: 408, HPE_HEADER_OVERFLOW: 431 };

/** Builds the endpoint; `app.listen` starts it. */
export function createApp(deps: HttpDeps): HttpApp {
  return createEndpoint(deps, (app) => {
    app.register(async (scope) => tenantApi(scope, deps, HANDLER_TIMEOUT_MS), { prefix: "/v1" });
  });
}

/** Builds the endpoint of a process that serves no tenant: `/livez`, `/readyz` and `/metrics` alone. */
export function createProbes(deps: ProbeDeps): HttpApp {
  return createEndpoint(deps, () => {});
}

function createEndpoint(deps: ProbeDeps, routes: (app: FastifyInstance) => void): HttpApp {
  let draining = false;
  const drain = () => {
    draining = true;
  };
  const app = fastify({
    loggerInstance: quieter(deps.log),
    childLoggerFactory: (_logger, bindings, options) =>
      deps.log.child(bindings, options) as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: "request_id" }),
    genReqId: () => randomUUID(),
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: REQUEST_TIMEOUT_MS,
    // Fastify stops this clock when it has read a body: a POST brings a deadline of its own.
    handlerTimeout: HANDLER_TIMEOUT_MS,
    return503OnClosing: false,
    http: {
      headersTimeout: HEADERS_TIMEOUT_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
      connectionsCheckingInterval: CHECKING_INTERVAL_MS,
    },
    clientErrorHandler: refuseUnparsed,
    frameworkErrors: (error, request, reply) => {
      protect(request, reply);
      refuse(deps, error, request, reply);
      account(deps, request, reply);
    },
  });
  app.decorateRequest("caller", null);
  app.addHook("onSend", async (request, reply) => {
    protect(request, reply);
    // A connection that stayed open after its answer would hold up the end.
    if (draining) reply.header("connection", "close");
  });
  app.addHook("onResponse", async (request, reply) => account(deps, request, reply));
  app.addHook("preClose", async () => drain());
  app.setReplySerializer((payload) => JSON.stringify(payload, amountAsText));
  app.setErrorHandler((error, request, reply) => refuse(deps, error, request, reply));
  app.setNotFoundHandler((request, reply) => refuse(deps, new AppError("not_found"), request, reply));
  const known = knownRoutes(app);
  app.register(async (scope) => probes(scope, { ...deps, isDraining: () => draining }));
  routes(app);
  // Last, so that every route is known, and outside of the hooks of the others.
  app.register(async (scope) => refuseOtherMethods(scope, known));
  return { app, drain };
}

/** What Fastify says by itself, such as where it listens, we say in our own words: only its warnings are heard. */
function quieter(log: Log): FastifyBaseLogger {
  return log.child({}, { level: log.isLevelEnabled("info") ? "warn" : log.level }) as FastifyBaseLogger;
}

function protect(request: FastifyRequest, reply: FastifyReply): void {
  reply.headers({
    "x-request-id": request.id,
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
  });
}

/** The one place where an error becomes an answer. Refusals are news, what is our fault is an error. */
function refuse(deps: Pick<HttpDeps, "log">, error: unknown, request: FastifyRequest, reply: FastifyReply) {
  const problem = problemOf(error, request.id);
  const facts = { code: problem.code, status: problem.status };
  if (isRlsRefusal(error)) {
    // Names no tenant: which one may be what was wrong. The request's own line, of the same id, says who called.
    deps.log.error({ request_id: request.id, err: error, ...facts }, "rls_enforcement_failed");
  } else if (problem.code === "internal_error") {
    request.log.error({ err: error, ...facts }, "request_failed");
  } else if (problem.status >= 500) {
    request.log.warn({ err: error, ...facts }, "request_failed");
  } else {
    const cause = error instanceof AppError && error.cause instanceof Error ? error.cause.message : undefined;
    request.log.info({ reason: cause, ...facts }, "request_refused");
  }
  return reply.code(problem.status).headers(problem.headers).send(problem.body);
}

function account(deps: ProbeDeps, request: FastifyRequest, reply: FastifyReply): void {
  const route = request.routeOptions.url ?? "unmatched";
  const { method } = request;
  deps.metrics.apiRequest(route, method, reply.statusCode, reply.elapsedTime / 1000);
  const level = route.startsWith("/v1/") ? "info" : "debug";
  const ms = Math.round(reply.elapsedTime);
  request.log[level]({ method, route, status: reply.statusCode, ms }, "request");
}

/** The methods of every route, as routes are added from here on. */
function knownRoutes(app: FastifyInstance): ReadonlyMap<string, readonly string[]> {
  const known = new Map<string, string[]>();
  app.addHook("onRoute", ({ url, method }) => {
    known.set(url, [...(known.get(url) ?? []), ...[method].flat()]);
  });
  return known;
}

/** A path that is ours, asked with a method that is not, gets 405 and the methods that are. */
function refuseOtherMethods(app: FastifyInstance, known: ReadonlyMap<string, readonly string[]>): void {
  for (const [url, methods] of [...known]) {
    app.route({
      url,
      method: METHODS.filter((method) => !methods.includes(method)),
      exposeHeadRoute: false,
      onRequest: async (_request, reply) => {
        reply.header("allow", methods.join(", "));
        throw new AppError("method_not_allowed");
      },
      handler: async () => undefined,
    });
  }
}

/** What Node could not read as HTTP became no request: the socket is all there is to answer on. */
function refuseUnparsed(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy();
  const status = UNPARSED_STATUS[error.code ?? ""] ?? 400;
  const title = STATUS_CODES[status] ?? "Bad Request";
  const { headers, body } = problemOf(new AppError("invalid_request"), randomUUID());
  const text = JSON.stringify({ ...body, title, status });
  const all = { ...headers, "content-length": String(Buffer.byteLength(text)), connection: "close" };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}`);
  socket.end([`HTTP/1.1 ${status} ${title}`, ...lines, "", text].join("\r\n"));
}

/** JSON numbers lose the end of a large amount. */
function amountAsText(_name: string, value: unknown): unknown {
  return typeof value === "bigint" ? value.toString() : value;
}
