# Bark Studio for a host: docs/hosting.md. Without a GPU:
#     docker build -t bark-studio .
# With an NVIDIA GPU (the default wheels of torch bring CUDA, several GB):
#     docker build -t bark-studio --build-arg TORCH_INDEX=https://pypi.org/simple .
FROM python:3.12-slim

# a compiler for the decode step on CPUs; git isn't needed
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 studio \
    && mkdir /data /models \
    && chown studio /data /models

WORKDIR /app
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt requirements-provenance.txt ./
RUN pip install --no-cache-dir "torch>=2.10,<2.14" --index-url "$TORCH_INDEX" \
    && pip install --no-cache-dir -r requirements.txt -r requirements-provenance.txt
COPY app.py LICENSE README.md ./
COPY bark_core bark_core
COPY webui webui
COPY presets presets
COPY models models

USER studio
VOLUME ["/data", "/models"]
EXPOSE 7860
# the page answers this without an account; it says nothing else
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
# nobody gets in without accounts, or BARK_STUDIO_PASSWORD
ENTRYPOINT ["python", "app.py", "--host", "0.0.0.0", "--port", "7860", "--data", "/data", "--cache-dir", "/models", "--no-open"]
