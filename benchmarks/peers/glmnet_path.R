# A path of glmnet: Rscript glmnet_path.R TYPE THRESH FOLDER N P K
suppressMessages(library(glmnet))
words <- commandArgs(trailingOnly = TRUE)
folder <- words[3]
n <- as.integer(words[4]); p <- as.integer(words[5]); K <- as.integer(words[6])
X <- matrix(readBin(file.path(folder, "X.bin"), "double", n * p), n, p)
y <- readBin(file.path(folder, "y.bin"), "integer", n)
lambda <- readBin(file.path(folder, "strengths.bin"), "double", 10000)
if (words[1] == "grouped") lambda <- lambda * sqrt(K)

start <- proc.time()[["elapsed"]]
fit <- glmnet(X, factor(y, levels = 0:(K - 1)), family = "multinomial", lambda = lambda,
              standardize = FALSE, thresh = as.numeric(words[2]), maxit = 1e7, type.multinomial = words[1])
seconds <- proc.time()[["elapsed"]] - start

if (length(fit$lambda) < length(lambda)) stop("no convergence in 1e7 passes", call. = FALSE)
coef <- lapply(fit$beta, as.matrix)
rows <- sapply(seq_along(lambda), function(l) c(fit$a0[, l], sapply(coef, function(beta) beta[, l])))
writeBin(c(seconds, rows), file.path(folder, "path.bin"))
