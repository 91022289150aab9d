/* Predict one box with onnxruntime's C API (from C or C++, without Python).
 *
 *     cc predict.c -I<onnxruntime>/include -L<onnxruntime>/lib -lonnxruntime -o predict
 *     ./predict MODEL.onnx NX NY NZ REDSHIFT XI.raw NAME=FIELD.raw ...
 *
 * A field is raw float32, z fastest, in the units the model's card names. */
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FIELDS 8

static const OrtApi *ort;

static void check(OrtStatus *status) {
  if (status == NULL) return;
  fprintf(stderr, "onnxruntime: %s\n", ort->GetErrorMessage(status));
  exit(1);
}

static OrtValue *tensor(OrtMemoryInfo *memory, float *data, size_t cells, const int64_t *dims, size_t rank) {
  OrtValue *value = NULL;
  check(ort->CreateTensorWithDataAsOrtValue(memory, data, cells * sizeof(float), dims, rank,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
  return value;
}

static float *read_field(const char *path, size_t cells) {
  float *data = malloc(cells * sizeof(float));
  FILE *file = fopen(path, "rb");
  if (data == NULL || file == NULL || fread(data, sizeof(float), cells, file) != cells) {
    fprintf(stderr, "%s: expected %zu float32 values\n", path, cells);
    exit(2);
  }
  fclose(file);
  return data;
}

int main(int count, char **arguments) {
  int fields = count - 7;
  if (fields < 1 || fields > MAX_FIELDS) {
    fprintf(stderr, "usage: %s MODEL.onnx NX NY NZ REDSHIFT XI.raw NAME=FIELD.raw ...\n", arguments[0]);
    return 2;
  }
  int64_t box[4] = {1, atoll(arguments[2]), atoll(arguments[3]), atoll(arguments[4])};
  int64_t one[1] = {1};
  size_t cells = (size_t)(box[1] * box[2] * box[3]);
  float redshift = strtof(arguments[5], NULL);

  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  OrtEnv *environment = NULL;
  OrtSessionOptions *options = NULL;
  OrtSession *session = NULL;
  OrtMemoryInfo *memory = NULL;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "reion", &environment));
  check(ort->CreateSessionOptions(&options));
  check(ort->CreateSession(environment, arguments[1], options, &session));
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

  const char *names[MAX_FIELDS + 1];
  const OrtValue *inputs[MAX_FIELDS + 1];
  for (int field = 0; field < fields; field++) {
    char *file = strchr(arguments[7 + field], '=');
    if (file == NULL) {
      fprintf(stderr, "expected NAME=FIELD.raw; received %s\n", arguments[7 + field]);
      return 2;
    }
    *file++ = '\0';
    names[field] = arguments[7 + field];
    inputs[field] = tensor(memory, read_field(file, cells), cells, box, 4);
  }
  names[fields] = "redshift";
  inputs[fields] = tensor(memory, &redshift, 1, one, 1);

  const char *outputs[1] = {"xi"};
  OrtValue *answer[1] = {NULL};
  check(ort->Run(session, NULL, names, inputs, (size_t)fields + 1, outputs, 1, answer));

  float *xi = NULL;
  check(ort->GetTensorMutableData(answer[0], (void **)&xi));
  FILE *file = fopen(arguments[6], "wb");
  if (file == NULL || fwrite(xi, sizeof(float), cells, file) != cells || fclose(file) != 0) {
    fprintf(stderr, "%s: cannot be written\n", arguments[6]);
    return 2;
  }
  return 0;
}
