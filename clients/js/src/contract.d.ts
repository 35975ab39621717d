// Messages of protos/sightline/v1 as JSON carries them. Written by clients/js/contract.py.
// A field that says nothing is left out; 64-bit numbers are strings of digits, bytes are base64.

export interface Acknowledgement {
  by?: string;
  time_ns?: string;
  note?: string;
}

export interface AnswerDone {
  turn?: string;
  text?: string;
  finish_reason?: FinishReason;
  prompt_tokens?: number;
  answer_tokens?: number;
  first_token_ms?: number;
  total_ms?: number;
  first_capture_ns?: string;
  last_capture_ns?: string;
  frames_seen?: number;
  history_rounds?: number;
  degraded?: string[];
  newest_frame_age_ms?: number;
  resumed?: string;
  kept?: boolean;
  tool_calls?: ToolCall[];
  memory?: Recollection[];
  unsure?: boolean;
  unfamiliar_picture?: boolean;
  strangeness?: number;
  confidence?: number;
  answered_by?: string;
}

export interface AnswerStarted {
  turn?: string;
  last_capture_ns?: string;
  restarted?: boolean;
  formed?: boolean;
}

export interface AudioChunk {
  sample_rate?: number;
  pcm?: string;
  text?: string;
}

export interface Cancel {
  turn?: string;
}

export interface ChoiceRule {
  statement?: string;
  options?: string[];
}

export interface ClientEvent {
  start?: Start;
  ask?: Question;
  watch?: Watch;
  unwatch?: Unwatch;
  cancel?: Cancel;
  audio_chunk?: AudioChunk;
  listen?: Listen;
  playback_ack?: PlaybackAck;
}

export interface CommentaryRule {
  question?: string;
  instructions?: string;
}

export interface Conversation {
  id?: string;
  session?: string;
  created_ns?: string;
  rounds?: number;
  expires_in_s?: number;
}

export interface CreateSessionRequest {
  source?: string;
  push?: Push;
  options?: SessionOptions;
  request_id?: string;
  model?: string;
}

export interface DecideQuestion {
  name?: string;
  statement?: string;
  choices?: string[];
  levels?: string[];
}

export interface DecideRequest {
  session?: string;
  questions?: DecideQuestion[];
}

export interface DecideResponse {
  decisions?: Decision[];
  first_capture_ns?: string;
  last_capture_ns?: string;
  frames_seen?: number;
  prompt_tokens?: number;
  total_ms?: number;
  unfamiliar_picture?: boolean;
  strangeness?: number;
}

export interface Decision {
  name?: string;
  probability?: number;
  value?: string;
  score?: number;
  probabilities?: number[];
}

export type DelegateMode =
  | "DELEGATE_MODE_UNSPECIFIED"
  | "DELEGATE_MODE_NEVER"
  | "DELEGATE_MODE_UNSURE"
  | "DELEGATE_MODE_ALWAYS";

export type Delivery =
  | "DELIVERY_UNSPECIFIED"
  | "DELIVERY_NEWEST"
  | "DELIVERY_LOSSLESS";

export interface ErrorEvent {
  turn?: string;
  watch?: string;
  code?: string;
  message?: string;
  reason?: string;
  retry_after_s?: number;
}

export type FinishReason =
  | "FINISH_REASON_UNSPECIFIED"
  | "FINISH_REASON_STOP"
  | "FINISH_REASON_LENGTH"
  | "FINISH_REASON_CANCELLED"
  | "FINISH_REASON_ERROR";

export interface GetConversationResponse {
  conversation?: Conversation;
  rounds?: Round[];
  next_page_token?: string;
}

export interface GetMemoryResponse {
  moments?: Moment[];
  next_page_token?: string;
  memory?: MemoryKind;
}

export interface GetServerInfoResponse {
  version?: string;
  contract_version?: string;
  models?: Model[];
  limits?: Limits;
  speech?: boolean;
  voices?: Voice[];
  default_voice?: string;
  conversations?: boolean;
  grpc_port?: number;
  rtmp_url?: string;
  whip_url?: string;
  ice_servers?: IceServer[];
  sign_in?: string;
  voice?: boolean;
  rules?: boolean;
  recording_s?: number;
}

export interface GetTranscriptResponse {
  said?: Said[];
}

export interface GoAway {
  reason?: string;
  reconnect_within_s?: number;
}

export interface HealthRule {
  conditions?: string[];
}

export interface Hours {
  days?: string[];
  begin?: string;
  end?: string;
}

export interface IceServer {
  urls?: string[];
  username?: string;
  credential?: string;
}

export interface Labels {
  labels?: Record<string, string>;
}

export interface Limits {
  sessions?: number;
  viewers_per_session?: number;
  questions_in_flight?: number;
  watches?: number;
  question_bytes?: number;
  answer_tokens?: number;
  labels?: number;
}

export interface ListEventsRequest {
  session?: string;
  rule?: string;
  after?: string;
  unacknowledged?: boolean;
  page_size?: number;
  page_token?: string;
}

export interface ListEventsResponse {
  events?: RuleEvent[];
  next_page_token?: string;
}

export interface ListRulesResponse {
  rules?: Rule[];
}

export interface ListWebhooksResponse {
  webhooks?: Webhook[];
}

export interface Listen {
  mode?: ListenMode;
}

export type ListenMode =
  | "LISTEN_MODE_UNSPECIFIED"
  | "LISTEN_MODE_HANDS_FREE"
  | "LISTEN_MODE_HOLD"
  | "LISTEN_MODE_OFF";

export type MemoryKind =
  | "MEMORY_KIND_UNSPECIFIED"
  | "MEMORY_KIND_OFF"
  | "MEMORY_KIND_LINES"
  | "MEMORY_KIND_PICTURES";

export interface Model {
  name?: string;
  card?: ModelCard;
  ready?: boolean;
  loading?: ModelLoading;
  workers?: number;
  max_sessions?: number;
  free_sessions?: number;
  frame_width?: number;
  frame_height?: number;
  tubelet?: number;
  window?: number;
  max_window?: number;
  preferred_fps?: number;
  dtype?: string;
  device?: string;
  pools?: Pool[];
}

export interface ModelCard {
  summary?: string;
  can?: string[];
  cannot?: string[];
  questions?: string[];
  conditions?: string[];
  licence?: string;
  notes?: string[];
}

export interface ModelLoading {
  text?: string;
  percent?: number;
  bytes_done?: string;
  bytes_total?: string;
  eta_s?: number;
}

export interface Moment {
  id?: string;
  start_ns?: string;
  end_ns?: string;
  line?: string;
  heard?: string;
  pictures?: string[];
  embedding?: string;
  changed?: boolean;
  num_pictures?: number;
}

export interface Playback {
  turn?: string;
  action?: PlaybackAction;
  heard?: string;
}

export interface PlaybackAck {
  turn?: string;
  played_s?: number;
}

export type PlaybackAction =
  | "PLAYBACK_ACTION_UNSPECIFIED"
  | "PLAYBACK_ACTION_PAUSE"
  | "PLAYBACK_ACTION_RESUME"
  | "PLAYBACK_ACTION_STOP";

export interface Pool {
  name?: string;
  workers?: number;
  max_sessions?: number;
  free_sessions?: number;
}

export interface PredicateRule {
  condition?: string;
}

export interface Product {
  sku?: string;
  names?: string[];
  link?: string;
  price?: string;
  picture?: string;
}

export interface ProductRule {
  statement?: string;
  products?: Product[];
  idle?: string;
}

export interface Push {
  key?: string;
}

export interface Question {
  turn?: string;
  text?: string;
  max_tokens?: number;
  temperature?: number;
  seed?: string;
  top_p?: number;
  repetition_penalty?: number;
  stop?: string[];
  top_k?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  instructions?: string;
  answer_schema?: string;
  tools?: Tool[];
  tool_choice?: string;
  called?: ToolCall[];
  single_call?: boolean;
}

export type Rating =
  | "RATING_UNSPECIFIED"
  | "RATING_UP"
  | "RATING_DOWN";

export interface Recollection {
  moment?: string;
  start_ns?: string;
  end_ns?: string;
  line?: string;
  heard?: string;
  picture?: boolean;
}

export interface Round {
  turn?: string;
  question?: string;
  answer?: string;
  asked_ns?: string;
  capture_ns?: string;
  interrupted?: boolean;
  cut?: boolean;
  rating?: Rating;
  better?: string;
}

export interface Rule {
  rule?: string;
  session?: string;
  session_name?: string;
  name?: string;
  predicate?: PredicateRule;
  choice?: ChoiceRule;
  score?: ScoreRule;
  health?: HealthRule;
  commentary?: CommentaryRule;
  product?: ProductRule;
  threshold?: number;
  interval_s?: number;
  debounce_s?: number;
  cooldown_s?: number;
  schedule?: Schedule;
  severity?: Severity;
  labels?: Record<string, string>;
  created_ns?: string;
  state?: RuleState;
  paused?: boolean;
}

export interface RuleCheck {
  time_ns?: string;
  active?: boolean;
  value?: string;
  probability?: number;
  score?: number;
  unfamiliar_picture?: boolean;
}

export interface RuleEvent {
  event?: string;
  rule?: string;
  rule_name?: string;
  session?: string;
  session_name?: string;
  kind?: string;
  severity?: Severity;
  labels?: Record<string, string>;
  active?: boolean;
  value?: string;
  probability?: number;
  score?: number;
  text?: string;
  product?: Product;
  time_ns?: string;
  capture_ns?: string;
  number?: string;
  reason?: string;
  picture?: boolean;
  clip?: boolean;
  acknowledged?: Acknowledgement;
}

export interface RuleLabels {
  labels?: Record<string, string>;
}

export interface RuleState {
  active?: boolean;
  value?: string;
  probability?: number;
  text?: string;
  time_ns?: string;
  capture_ns?: string;
  events?: string;
  error?: string;
  check?: RuleCheck;
}

export interface Said {
  text?: string;
  start_ns?: string;
  end_ns?: string;
  language?: string;
}

export interface Schedule {
  time_zone?: string;
  hours?: Hours[];
}

export interface ScoreRule {
  statement?: string;
  levels?: string[];
}

export interface ServerEvent {
  sequence?: string;
  started?: Started;
  answer_started?: AnswerStarted;
  text_delta?: TextDelta;
  audio_chunk?: SpeechChunk;
  answer_done?: AnswerDone;
  watch_event?: WatchEvent;
  session_state?: Session;
  go_away?: GoAway;
  error?: ErrorEvent;
  transcript?: Transcript;
  playback?: Playback;
  source_health?: SourceHealth;
  said?: Said;
  watch_status?: WatchStatus;
}

export interface Session {
  id?: string;
  name?: string;
  state?: SessionState;
  source_kind?: string;
  source?: string;
  key?: string;
  rtmp_url?: string;
  whip_url?: string;
  model?: string;
  window?: number;
  fps?: number;
  frame_width?: number;
  frame_height?: number;
  worker?: string;
  created_ns?: string;
  stats?: SessionStats;
  delivery?: Delivery;
  labels?: Record<string, string>;
  grace_s?: number;
  moving?: boolean;
  source_health?: SourceHealth;
  sound?: boolean;
  srt_url?: string;
  memory?: MemoryKind;
  listens?: boolean;
  delegate?: DelegateMode;
  delegate_to?: string;
}

export interface SessionOptions {
  name?: string;
  fps?: number;
  window?: number;
  delivery?: Delivery;
  loop?: boolean;
  grace_s?: number;
  max_pixels?: number;
  labels?: Record<string, string>;
  priority?: number;
  memory?: MemoryKind;
  listen?: boolean;
  delegate?: DelegateMode;
  delegate_to?: string;
}

export type SessionState =
  | "SESSION_STATE_UNSPECIFIED"
  | "SESSION_STATE_WAITING"
  | "SESSION_STATE_LIVE"
  | "SESSION_STATE_STALLED"
  | "SESSION_STATE_ENDED";

export interface SessionStats {
  fps_in?: number;
  fps_processed?: number;
  frames_received?: string;
  frames_sampled?: string;
  frames_processed?: string;
  dropped?: Record<string, string>;
  frame_latency_p50_ms?: number;
  frame_latency_p95_ms?: number;
  kv_hit_ratio?: number;
  last_capture_ns?: string;
  clock_source?: string;
  degraded?: string[];
  source_width?: number;
  source_height?: number;
  fps_allowed?: number;
  strangeness?: number;
  frames_unfamiliar?: string;
}

export type Severity =
  | "SEVERITY_UNSPECIFIED"
  | "SEVERITY_INFO"
  | "SEVERITY_WARNING"
  | "SEVERITY_CRITICAL";

export type SourceCondition =
  | "SOURCE_CONDITION_UNSPECIFIED"
  | "SOURCE_CONDITION_FINE"
  | "SOURCE_CONDITION_DEAD"
  | "SOURCE_CONDITION_DARK"
  | "SOURCE_CONDITION_COVERED"
  | "SOURCE_CONDITION_FROZEN"
  | "SOURCE_CONDITION_REPEATING";

export interface SourceHealth {
  condition?: SourceCondition;
  since_ns?: string;
}

export interface SpeechChunk {
  turn?: string;
  audio?: AudioChunk;
}

export interface Start {
  session?: string;
  conversation?: string;
  resume_handle?: string;
  last_sequence?: string;
  speech?: boolean;
  voice?: string;
  spoken?: Question;
}

export interface Started {
  session?: Session;
  conversation?: string;
  resume_handle?: string;
  resumed?: string;
}

export interface TextDelta {
  turn?: string;
  text?: string;
}

export interface Tool {
  name?: string;
  description?: string;
  parameters?: string;
}

export interface ToolCall {
  id?: string;
  name?: string;
  arguments?: string;
  output?: string;
}

export interface Transcript {
  turn?: string;
  text?: string;
  final?: boolean;
  start_ns?: string;
  end_ns?: string;
}

export interface Unwatch {
  watch?: string;
}

export interface UpdateRuleRequest {
  rule?: string;
  paused?: boolean;
  threshold?: number;
  interval_s?: number;
  debounce_s?: number;
  cooldown_s?: number;
  schedule?: Schedule;
  severity?: Severity;
  labels?: RuleLabels;
}

export interface UpdateSessionRequest {
  session?: string;
  name?: string;
  fps?: number;
  window?: number;
  grace_s?: number;
  labels?: Labels;
  listen?: boolean;
  delegate?: DelegateMode;
  delegate_to?: string;
}

export interface Voice {
  id?: string;
  language?: string;
  engine?: string;
  sample_rate?: number;
}

export interface Watch {
  watch?: string;
  condition?: string;
  interval_s?: number;
  debounce_s?: number;
  cooldown_s?: number;
}

export interface WatchEvent {
  watch?: string;
  condition?: string;
  active?: boolean;
  score?: number;
  capture_ns?: string;
  degraded?: string[];
  status?: WatchStatus;
}

export interface WatchStatus {
  watch?: string;
  active?: boolean;
  score?: number;
  capture_ns?: string;
  unknown_words?: string[];
  undecided?: boolean;
  unfamiliar_picture?: boolean;
}

export interface Webhook {
  webhook?: string;
  url?: string;
  secret?: string;
  severity?: Severity;
  session?: string;
  created_ns?: string;
  state?: WebhookState;
}

export interface WebhookState {
  after?: string;
  delivered?: string;
  dead?: string;
  failures?: number;
  error?: string;
}
